"""A saved model as a whole: opened where it is, or published where it shall be.

`opened` is what the rest of the package sees of it, `sources` says where one can be (`local`,
`remote`, `fetched` by another process) and tries again when it was replaced meanwhile, `publish`
puts a new one in its place.
"""
