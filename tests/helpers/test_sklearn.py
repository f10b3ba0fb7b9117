"""Fitted estimators come back without pickle, and predict the same."""

import io
import json
import os
import subprocess
import sys
import warnings
import zipfile

import numpy as np
import pytest
import scipy.sparse
import scipy.special
import skops.io
import torch
from sklearn.base import BaseEstimator, ClassifierMixin, TransformerMixin
from sklearn.compose import ColumnTransformer
from sklearn.datasets import load_digits
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.neighbors import KNeighborsClassifier
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from sklearn.utils import all_estimators, get_tags

# scikit-learn's own table of how each estimator is made for a test; there is no public one
from sklearn.utils._test_common.instance_generator import _construct_instances
from sklearn.utils.estimator_checks import _enforce_estimator_tags_X, _enforce_estimator_tags_y

from helpers import deserialise, inspect, serialise
from helpers.errors import CorruptFile, UnsupportedModel
from helpers.families import skops_arrays

X, Y = load_digits(return_X_y=True)
X, Y = X[:300], Y[:300]
METHODS = ("predict", "predict_proba", "decision_function", "transform")
TEXT = ["a small text", "another text", "words and words"] * 10
RECORDS = [{"a": 1.0, "b": i % 3} for i in range(30)]
SPECIAL = {  # estimators that do not take a table of numbers
    "CountVectorizer": (TEXT,), "TfidfVectorizer": (TEXT,), "HashingVectorizer": (TEXT,),
    "DictVectorizer": (RECORDS,), "FeatureHasher": (RECORDS,), "LabelBinarizer": (Y,), "LabelEncoder": (Y,),
    "MultiLabelBinarizer": ([(1, 2), (3,), (1,)],), "PatchExtractor": (np.ones((5, 32, 32)),),
    "SparseCoder": (X[:40, :3],),
}  # fmt: skip


def fitted(cls):
    """An instance of a class, fitted, and the input of its methods; None if it cannot be made here."""
    try:
        estimator = next(iter(_construct_instances(cls)))
    except Exception:
        return None
    if "random_state" in estimator.get_params():
        estimator.set_params(random_state=0)
    if cls.__name__ in SPECIAL:
        arguments = SPECIAL[cls.__name__]
    else:
        rng = np.random.RandomState(0)
        table = _enforce_estimator_tags_X(estimator, np.abs(rng.rand(40, 6)))
        regression = get_tags(estimator).estimator_type == "regressor"
        target = rng.rand(40) if regression else rng.randint(0, 2, 40)
        arguments = table, _enforce_estimator_tags_y(estimator, target)
    return estimator.fit(*arguments), arguments[0]


def results(estimator, table):
    found = {}
    for method in METHODS:
        if hasattr(estimator, method):
            value = getattr(estimator, method)(table)
            found[method] = np.asarray(value.toarray() if hasattr(value, "toarray") else value)
    return found


def equal(one, other, exactly):
    if not exactly and one.dtype.kind == "f":
        return np.allclose(one, other, rtol=1e-9, atol=1e-12, equal_nan=True)
    return np.array_equal(one, other, equal_nan=one.dtype.kind == "f")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.slow
def test_every_estimator_that_skops_round_trips_round_trips_here(tmp_path):
    done, not_by_skops, not_made, not_exact_by_skops = [], [], [], []
    for name, cls in all_estimators():
        if (made := fitted(cls)) is None:
            not_made.append(name)
            continue
        estimator, table = made
        try:
            data = skops.io.dumps(estimator)
            by_skops = skops.io.loads(data, trusted=skops.io.get_untrusted_types(data=data))
        except Exception:
            not_by_skops.append(name)
            continue
        before, theirs = results(estimator, table), results(by_skops, table)
        exactly = all(equal(before[m], theirs[m], True) for m in before)
        not_exact_by_skops += [] if exactly else [name]
        serialise(estimator, tmp_path / "e", overwrite=True, progress=False)
        loaded = deserialise(tmp_path / "e")
        assert type(loaded) is type(estimator)
        after = results(loaded, table)
        assert before.keys() == after.keys()
        for method in before:
            assert equal(before[method], after[method], exactly), (name, method)
        done.append(name)
    print(f"{len(done)} estimators; skops cannot do {not_by_skops}; its own copy differs in the last bits: ")
    print(f"{not_exact_by_skops}; could not be made for a test: {not_made}")
    assert len(done) >= 195
    assert not_by_skops == ["Birch"]
    assert not_made == ["FrozenEstimator"]


PIPELINES = {
    "mlp": lambda: make_pipeline(StandardScaler(), MLPClassifier((16,), max_iter=20, random_state=0)),
    "forest": lambda: RandomForestClassifier(30, random_state=0),
    "boosting": lambda: HistGradientBoostingClassifier(max_iter=5, random_state=0),
    "search": lambda: GridSearchCV(LogisticRegression(max_iter=20), {"C": [0.1, 1]}, cv=2),
    "columns": lambda: make_pipeline(
        ColumnTransformer([("scaled", StandardScaler(), slice(0, 9)), ("rest", "passthrough", [10, 11])]),
        KNeighborsClassifier(),
    ),
    "function": lambda: make_pipeline(FunctionTransformer(np.log1p), LogisticRegression(max_iter=20)),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", PIPELINES)
def test_pipelines_predict_the_same(tmp_path, name):
    estimator = PIPELINES[name]().fit(X, Y)
    saved = serialise(estimator, tmp_path / "e")
    loaded = deserialise(tmp_path / "e", verify=True)
    assert saved.family == "sklearn"
    before, after = results(estimator, X), results(loaded, X)
    assert before
    for method in before:
        assert np.array_equal(before[method], after[method])
    assert loaded.get_params().keys() == estimator.get_params().keys()


def test_text_and_sparse_data_survive(tmp_path):
    vectorizer = TfidfVectorizer().fit(TEXT)
    serialise(vectorizer, tmp_path / "v")
    assert (deserialise(tmp_path / "v").transform(TEXT) != vectorizer.transform(TEXT)).nnz == 0
    sparse = KNeighborsClassifier().fit(vectorizer.transform(TEXT), [0, 1, 2] * 10)
    serialise(sparse, tmp_path / "s")
    loaded = deserialise(tmp_path / "s")
    assert np.array_equal(loaded.predict(vectorizer.transform(TEXT)), [0, 1, 2] * 10)


def test_the_arrays_are_in_model_tensors_and_not_in_the_structure(tmp_path):
    estimator = KNeighborsClassifier().fit(X, Y)
    serialise(estimator, tmp_path / "e")
    assert (tmp_path / "e" / "model.tensors").stat().st_size > X.nbytes
    assert (tmp_path / "e" / "structure.zip").stat().st_size < 0.1 * X.nbytes
    entries = json.loads((tmp_path / "e" / "model.json").read_text())["entries"]
    assert ["float64", [300, 64]] in [entry[2:4] for entry in entries]


def test_fortran_order_and_odd_types_survive(tmp_path):
    estimator = StandardScaler().fit(X)
    estimator.order_ = np.asfortranarray(X[:7])
    estimator.names_ = np.array(["ü", "word"])
    estimator.big_ = np.arange(3, dtype=">i4")
    estimator.none_ = np.empty((0, 3))
    estimator.when_ = np.array([(1, 2.0)], dtype=[("a", "i4"), ("b", "f8")])
    serialise(estimator, tmp_path / "e")
    loaded = deserialise(tmp_path / "e")
    assert loaded.order_.flags.f_contiguous and not loaded.order_.flags.c_contiguous
    for key in ("order_", "names_", "big_", "none_", "when_"):
        one, other = getattr(estimator, key), getattr(loaded, key)
        assert one.dtype == other.dtype and one.shape == other.shape and (one == other).all(), key


class ThirdParty(ClassifierMixin, BaseEstimator):
    """An estimator from outside scikit-learn."""

    def fit(self, table, target):
        self.classes_ = np.unique(target)
        return self

    def predict(self, table):
        return np.full(len(table), self.classes_[0])


def own_function(table):
    return table


def test_an_estimator_that_is_not_fitted_is_refused(tmp_path):
    with pytest.raises(UnsupportedModel, match=r"LogisticRegression: is not fitted"):
        serialise(LogisticRegression(), tmp_path / "e")
    half = make_pipeline(StandardScaler().fit(X), LogisticRegression())
    with pytest.raises(
        UnsupportedModel, match=r"step 'logisticregression' \(LogisticRegression\) is not fitted"
    ):
        serialise(half, tmp_path / "e")
    assert list(tmp_path.iterdir()) == []


class Picker(TransformerMixin, BaseEstimator):
    """Stores nothing in fit."""

    def fit(self, table, target=None):
        return self

    def transform(self, table):
        return table[:, :5]


class Duck:
    """A step that is no estimator of scikit-learn."""

    fit, transform = Picker.fit, Picker.transform


class Numbered(ClassifierMixin, BaseEstimator):
    def __init__(self, steps=3):
        self.steps = steps

    def fit(self, table, target=None):
        self.classes_ = np.unique(target)
        return self


@pytest.mark.parametrize("kind", [Picker, Duck, Numbered])
def test_a_fitted_estimator_whose_steps_cannot_say_that_they_are_fitted_is_saved(tmp_path, kind):
    model = Numbered() if kind is Numbered else make_pipeline(kind(), KNeighborsClassifier())
    trusted = [f"test_sklearn.{kind.__name__}"]
    serialise(model.fit(X, Y), tmp_path / "e", trusted=trusted)
    loaded = deserialise(tmp_path / "e", trusted=trusted)
    if kind is Numbered:
        assert loaded.steps == 3
    else:
        assert np.array_equal(loaded.predict(X), model.predict(X))


def test_an_estimator_with_steps_of_another_kind_that_is_not_fitted_is_refused(tmp_path):
    with pytest.raises(UnsupportedModel, match="Numbered: is not fitted"):
        serialise(Numbered(), tmp_path / "e", trusted=["test_sklearn.Numbered"])


def test_what_has_a_name_and_no_module_is_passed_by_or_refused_by_its_place(tmp_path):
    model = make_pipeline(FunctionTransformer(scipy.special.expit), ThirdParty()).fit(X, Y)
    with pytest.raises(UnsupportedModel, match=r"steps\[1\]\[1\] \(test_sklearn\.ThirdParty\)"):
        serialise(model, tmp_path / "e")
    model.set_params(functiontransformer__func=str.lower)
    with pytest.raises(UnsupportedModel, match=r"\.func \(builtins\.method_descriptor\)"):
        serialise(model, tmp_path / "e", trusted=["test_sklearn.ThirdParty"])
    with pytest.raises(UnsupportedModel, match=r"cannot be|not rebuilt"):
        serialise(model, tmp_path / "e", trusted=["test_sklearn.ThirdParty", "builtins.method_descriptor"])


def test_a_lambda_is_refused_by_the_name_of_its_attribute(tmp_path):
    estimator = make_pipeline(FunctionTransformer(lambda table: table), LogisticRegression(max_iter=5))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        estimator.fit(X, Y)
    with pytest.raises(UnsupportedModel, match=r"steps\[0\]\[1\]\.func \(test_sklearn\.<lambda>\)"):
        serialise(estimator, tmp_path / "e")
    with pytest.raises(UnsupportedModel, match="not rebuilt"):  # trust does not help: nobody finds it again
        serialise(estimator, tmp_path / "e", trusted=["test_sklearn.<lambda>"])
    assert list(tmp_path.iterdir()) == []


def test_a_third_party_type_is_refused_by_name_unless_trusted_both_ways(tmp_path):
    estimator = make_pipeline(StandardScaler(), ThirdParty()).fit(X, Y)
    with pytest.raises(UnsupportedModel, match=r"steps\[1\]\[1\] \(test_sklearn\.ThirdParty\)"):
        serialise(estimator, tmp_path / "e")
    serialise(estimator, tmp_path / "e", trusted=["test_sklearn.ThirdParty"])
    with pytest.raises(UnsupportedModel, match=r"trusted=\['test_sklearn\.ThirdParty'\]"):
        deserialise(tmp_path / "e")
    loaded = deserialise(tmp_path / "e", trusted=["test_sklearn.ThirdParty"])
    assert np.array_equal(loaded.predict(X), estimator.predict(X))


def test_a_function_of_ones_own_is_refused_unless_trusted(tmp_path):
    estimator = FunctionTransformer(own_function).fit(X)
    with pytest.raises(UnsupportedModel, match=r"func \(test_sklearn\.own_function\)"):
        serialise(estimator, tmp_path / "e")
    serialise(estimator, tmp_path / "e", trusted=["test_sklearn.own_function"])
    loaded = deserialise(tmp_path / "e", trusted=["test_sklearn.own_function"])
    assert loaded.func is own_function


def test_what_skops_cannot_describe_is_refused(tmp_path):
    from sklearn.cluster import Birch

    with pytest.raises(UnsupportedModel, match="cannot be described by skops"):
        serialise(Birch(n_clusters=2).fit(X), tmp_path / "e")


def test_another_version_of_scikit_learn_is_warned_of(tmp_path):
    serialise(StandardScaler().fit(X), tmp_path / "e")
    path = tmp_path / "e" / "model.json"
    fields = json.loads(path.read_text())
    now = fields["versions"]["scikit-learn"]
    fields["versions"]["scikit-learn"] = "0.99"
    path.write_text(json.dumps(fields))
    with pytest.warns(UserWarning, match=rf"saved by scikit-learn 0\.99 and is loaded by {now}"):
        deserialise(tmp_path / "e")


def rewrite(folder, change):
    """Exchange the structure for one that an attacker has made."""
    path = folder / "structure.zip"
    with zipfile.ZipFile(path) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    change(files)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)


def test_a_structure_that_names_a_dangerous_function_is_refused_and_not_run(tmp_path):
    serialise(FunctionTransformer(np.log1p).fit(X), tmp_path / "e")

    def attack(files):
        text = files["schema.json"].decode()
        assert '"log1p"' in text
        files["schema.json"] = text.replace('"log1p"', '"system"').replace('"numpy"', '"os"').encode()

    rewrite(tmp_path / "e", attack)
    with pytest.raises((UnsupportedModel, CorruptFile), match=r"os\.system|posix\.system"):
        deserialise(tmp_path / "e")


@pytest.mark.parametrize(
    "change",
    [
        lambda files: files.pop("schema.json"),
        lambda files: files.update({"schema.json": b"{"}),
        lambda files: files.update({name: b"" for name in files if name.endswith(".npy")}),
        pytest.param(lambda files: files.update({"bomb": bytes(1 << 30)}), marks=pytest.mark.slow),
    ],
    ids=["no schema", "broken schema", "no headers", "zip bomb"],
)
def test_a_damaged_structure_is_refused(tmp_path, change):
    serialise(StandardScaler().fit(X), tmp_path / "e")
    rewrite(tmp_path / "e", change)
    with pytest.raises(CorruptFile, match=r"structure\.zip: cannot be rebuilt"):
        deserialise(tmp_path / "e")
    with pytest.raises(CorruptFile, match=r"structure\.zip: is not what was saved"):
        deserialise(tmp_path / "e", verify=True)


def test_a_flipped_bit_in_an_array_is_found(tmp_path):
    serialise(StandardScaler().fit(X), tmp_path / "e")
    path = tmp_path / "e" / "model.tensors"
    raw = bytearray(path.read_bytes())
    raw[-20] ^= 1
    path.write_bytes(raw)
    with pytest.raises(CorruptFile, match="1 of"):
        deserialise(tmp_path / "e", verify=True)


def test_dtype_means_nothing_to_an_estimator_and_is_refused(tmp_path):
    serialise(StandardScaler().fit(X), tmp_path / "e")
    with pytest.raises(UnsupportedModel, match="Load it without dtype"):
        deserialise(tmp_path / "e", dtype=torch.float16)


PEAK = """
import sys
import numpy as np
import helpers.families.skops_arrays
from sklearn.neighbors import NearestNeighbors
from helpers import deserialise, serialise


def growth(do):
    def said(key):
        lines = open("/proc/self/status").read().splitlines()
        return next(int(line.split()[1]) << 10 for line in lines if line.startswith(key))

    open("/proc/self/clear_refs", "w").write("5")  # the peak begins anew
    before = said("VmRSS")
    kept = do()
    return kept, said("VmHWM") - before


table = np.random.default_rng(0).random((80_000, 64))
model = NearestNeighbors(algorithm=sys.argv[2]).fit(table)
_, saving = growth(lambda: serialise(model, sys.argv[1], progress=False))
loaded, loading = growth(lambda: deserialise(sys.argv[1], device="cpu", progress=False))
assert (loaded._fit_X == table).all()
print(saving / table.nbytes, loading / table.nbytes)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("algorithm", ["brute", "kd_tree"])
def test_no_array_is_copied_while_saving_or_loading(tmp_path, algorithm):
    command = [sys.executable, "-c", PEAK, str(tmp_path / "e"), algorithm]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    saving, loading = map(float, done.stdout.split())
    assert saving < 0.5 and loading < 0.5


@pytest.mark.parametrize("kind", ["matrix", "array"])
@pytest.mark.parametrize("form", ["csr", "csc", "coo", "bsr", "dia"])
def test_sparse_matrices_of_every_form_come_back(tmp_path, form, kind):
    estimator = StandardScaler().fit(X)
    estimator.sparse_ = getattr(scipy.sparse, f"{form}_{kind}")(X[:20] * (X[:20] > 8))
    trusted = [f"scipy.sparse._{form}.{form}_{kind}"]
    serialise(estimator, tmp_path / "e", trusted=trusted)
    loaded = deserialise(tmp_path / "e", trusted=trusted).sparse_
    assert type(loaded) is type(estimator.sparse_) and loaded.dtype == X.dtype
    assert (loaded != estimator.sparse_).nnz == 0


def roomy(form):
    """A sparse matrix whose indices have a larger type than they need; one by rows has room to spare."""
    matrix = scipy.sparse.coo_matrix(X[:20] * (X[:20] > 8)).asformat(form)
    if form == "coo":
        matrix.coords = tuple(part.astype(np.int64) for part in matrix.coords)
    for key in {"indices", "indptr", "offsets"} & vars(matrix).keys():
        setattr(matrix, key, getattr(matrix, key).astype(np.int64))
    if form == "csr":
        matrix.data, matrix.indices = (np.append(part, [0, 0]) for part in (matrix.data, matrix.indices))
    return matrix


@pytest.mark.parametrize("form", ["csr", "csc", "coo", "bsr", "dia"])
def test_the_arrays_of_a_sparse_matrix_come_back_to_the_bit_and_mapped(tmp_path, form):
    estimator = StandardScaler().fit(X)
    estimator.sparse_ = roomy(form)
    trusted = [f"scipy.sparse._{form}.{form}_matrix"]
    serialise(estimator, tmp_path / "e", trusted=trusted)
    loaded = deserialise(tmp_path / "e", trusted=trusted).sparse_
    for key in ("data", "indices", "indptr", "offsets", "row", "col"):
        if hasattr(estimator.sparse_, key):
            one, other = getattr(estimator.sparse_, key), getattr(loaded, key)
            assert one.dtype == other.dtype and one.tobytes() == other.tobytes(), key
            assert not other.flags.owndata, key
    assert (loaded.toarray() == estimator.sparse_.toarray()).all()


@pytest.mark.parametrize("dtype", ["f8", "i1", "U1", "O", "M8[D]", [("a", "i4")]])
def test_a_masked_array_comes_back_or_is_refused_if_it_would_lose_what_it_is_filled_with(tmp_path, dtype):
    model = StandardScaler().fit(X)
    model.held_ = np.ma.MaskedArray(np.zeros(3, dtype), mask=[0, 1, 0])
    serialise(model, tmp_path / "e")
    loaded = deserialise(tmp_path / "e").held_
    assert repr(loaded) == repr(model.held_) and loaded.dtype == model.held_.dtype
    model.held_.fill_value = (7,) if isinstance(dtype, list) else np.ones(1, dtype)[0]
    with pytest.raises(UnsupportedModel, match=r"a masked array would lose its fill_value, "):
        serialise(model, tmp_path / "other")


def test_an_array_that_is_there_twice_is_stored_once_and_comes_back_as_one(tmp_path):
    estimator = StandardScaler().fit(X)
    estimator.one_ = estimator.other_ = X
    before = X.nbytes
    serialise(estimator, tmp_path / "e")
    assert (tmp_path / "e" / "model.tensors").stat().st_size < 1.5 * before
    loaded = deserialise(tmp_path / "e")
    assert loaded.one_ is loaded.other_


AGAIN = """
import sys
from sklearn.datasets import load_iris
from sklearn.feature_extraction import DictVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from helpers import serialise

serialise(LogisticRegression(max_iter=20).fit(*load_iris(return_X_y=True)), sys.argv[1] + "/dense")
records = [{"a": 1.0, "b": str(i % 3)} for i in range(30)]
serialise(make_pipeline(DictVectorizer(), KNeighborsClassifier()).fit(records, [0, 1, 2] * 10), sys.argv[1] + "/sparse")
"""


def test_two_processes_that_fit_the_same_save_the_same_bytes(tmp_path):
    for name in ("one", "other"):
        command = [sys.executable, "-W", "ignore", "-c", AGAIN, str(tmp_path / name)]
        subprocess.run(command, check=True, env=os.environ | {"PYTHONHASHSEED": str(len(name))})
    for model in ("dense", "sparse"):
        one, other = tmp_path / "one" / model, tmp_path / "other" / model
        for file in ("model.json", "model.tensors", "structure.zip"):
            assert (one / file).read_bytes() == (other / file).read_bytes(), (model, file)
        names = [tensor.name for tensor in inspect(one).tensors]
        assert names and all(len(name.partition(".")[0]) < 4 for name in names), names  # no place in memory


@pytest.mark.filterwarnings("ignore")
def test_an_estimator_whose_arrays_are_named_as_before_loads(tmp_path, monkeypatch):
    monkeypatch.setattr(skops_arrays, "_Numbered", skops_arrays.SaveContext)
    estimator = LogisticRegression(max_iter=20).fit(X, Y)
    serialise(estimator, tmp_path / "e")
    monkeypatch.undo()
    assert all(len(tensor.name) > 12 for tensor in inspect(tmp_path / "e").tensors)
    assert np.array_equal(
        deserialise(tmp_path / "e", verify=True).predict_proba(X), estimator.predict_proba(X)
    )


def test_a_loaded_estimator_is_changed_without_a_change_of_its_file(tmp_path):
    estimator = KNeighborsClassifier(algorithm="brute").fit(X, Y)
    serialise(estimator, tmp_path / "e")
    deserialise(tmp_path / "e")._fit_X[:] = 0
    assert np.array_equal(deserialise(tmp_path / "e", verify=True)._fit_X, X)


def test_arrays_that_cannot_be_written_to_or_lie_scattered_are_saved(tmp_path):
    estimator = StandardScaler().fit(X)
    estimator.fixed_, estimator.columns_ = X.copy(), X[:, ::3]
    estimator.back_, estimator.scalar_ = X[::-1], np.float32(0.5)
    estimator.fixed_.flags.writeable = False
    serialise(estimator, tmp_path / "e")
    loaded = deserialise(tmp_path / "e")
    for key in ("fixed_", "columns_", "back_", "scalar_"):
        assert np.array_equal(getattr(loaded, key), getattr(estimator, key)), key
        assert type(getattr(loaded, key)) is type(getattr(estimator, key))


@pytest.mark.parametrize("shape", [(0, 3), (2, 2)])
def test_an_array_of_objects_that_would_lose_its_shape_is_refused(tmp_path, shape):
    model = StandardScaler().fit(X)
    model.held_ = np.empty(shape, object)
    for place in np.ndindex(shape):
        model.held_[place] = [1]
    with pytest.raises(UnsupportedModel, match=r"of shape .* would lose its shape"):
        serialise(model, tmp_path / "e")


def test_others_save_and_load_by_skops_as_before():
    data = skops.io.dumps(StandardScaler().fit(X))
    again = skops.io.loads(data, trusted=skops.io.get_untrusted_types(data=data))
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        assert sum(name.endswith(".npy") for name in archive.namelist()) >= 3
    assert np.array_equal(again.mean_, X.mean(axis=0))
