"""ltpost.sklearn: scikit-learn's own checks, and what the estimators must give."""

import numpy as np
import pytest

sklearn = pytest.importorskip("sklearn")

from sklearn.calibration import CalibratedClassifierCV  # noqa: E402
from sklearn.datasets import make_classification  # noqa: E402
from sklearn.frozen import FrozenEstimator  # noqa: E402
from sklearn.linear_model import LogisticRegression  # noqa: E402
from sklearn.metrics import balanced_accuracy_score  # noqa: E402
from sklearn.model_selection import GridSearchCV, GroupKFold, PredefinedSplit, train_test_split  # noqa: E402
from sklearn.neighbors import KNeighborsClassifier  # noqa: E402
from sklearn.pipeline import make_pipeline  # noqa: E402
from sklearn.preprocessing import StandardScaler  # noqa: E402
from sklearn.utils.estimator_checks import parametrize_with_checks  # noqa: E402

import ltpost  # noqa: E402
from ltpost.sklearn import BalancedLinear, NearestClassMean, Rebalanced  # noqa: E402


def long_tailed(classes=3, seed=0):
    weights = np.array([0.8, 0.15, 0.05][:classes]) if classes == 3 else [0.95, 0.05]
    return make_classification(
        2000, 12, n_informative=6, n_classes=classes, weights=list(weights), class_sep=0.7, random_state=seed
    )


@pytest.mark.filterwarnings("ignore:The least populated class")  # in checks of scikit-learn 1.7, with ten rows
@parametrize_with_checks([NearestClassMean(), BalancedLinear(), Rebalanced(LogisticRegression())])
def test_scikit_learn_checks(estimator, check):
    check(estimator)


@pytest.mark.parametrize("classes", [2, 3])
def test_rebalanced_improves_the_balanced_accuracy(classes):
    X, y = long_tailed(classes)
    names = np.array(["common", "rare", "rarest"])[y]
    train, test, y_train, y_test = train_test_split(X, names, stratify=names, random_state=0)
    plain = LogisticRegression().fit(train, y_train)
    model = Rebalanced(LogisticRegression()).fit(train, y_train)
    before, after = (balanced_accuracy_score(y_test, fitted.predict(test)) for fitted in (plain, model))
    assert after > before + 0.05
    assert set(model.classes_) == set(names)
    np.testing.assert_allclose(model.predict_proba(test).sum(1), 1)


def test_rebalanced_is_logit_adjustment_of_the_scores():
    X, y = long_tailed()
    model = Rebalanced(LogisticRegression()).fit(X, y)
    z = model.estimator_.decision_function(X)
    adjusted = z - model.best_value_ * np.log(np.bincount(y) / len(y))
    assert np.array_equal(model.predict(X), adjusted.argmax(1))


def test_a_frozen_classifier_is_chosen_on_the_rows_given():
    X, y = long_tailed()
    train, val, y_train, y_val = train_test_split(X, y, stratify=y, random_state=0)
    fitted = LogisticRegression().fit(train, y_train)
    model = Rebalanced(FrozenEstimator(fitted), class_counts=np.bincount(y_train)).fit(val, y_val)
    split = ltpost.FeatureSet(None, y_val, logits=fitted.decision_function(val), class_counts=np.bincount(y_train))
    best = ltpost.logit_adjustment(split.joint, split.class_counts).curve(split).best(low=0, high=2)
    assert model.best_value_ == best.value
    assert model.estimator_ is not None
    with pytest.raises(ValueError, match="class_counts= is needed"):
        Rebalanced(FrozenEstimator(fitted)).fit(val, y_val)
    with pytest.raises(ValueError, match="must have 3 entries"):
        Rebalanced(FrozenEstimator(fitted), class_counts=[1, 2]).fit(val, y_val)


def test_inside_other_meta_estimators():
    X, y = long_tailed()
    pipeline = make_pipeline(StandardScaler(), Rebalanced(KNeighborsClassifier(), cv=3))
    search = GridSearchCV(pipeline, {"rebalanced__method": ["la", "mla"]}, scoring="balanced_accuracy", cv=2)
    assert search.fit(X, y).best_score_ > 0.4
    calibrated = CalibratedClassifierCV(Rebalanced(LogisticRegression()), cv=2).fit(X, y)
    np.testing.assert_allclose(calibrated.predict_proba(X[:5]).sum(1), 1)


def test_heads_are_those_of_ltpost():
    X, y = long_tailed()
    train = ltpost.FeatureSet(X, y)
    assert np.array_equal(
        NearestClassMean("cosine").fit(X, y).head_.weight, ltpost.nearest_class_mean(train).head().weight
    )
    expected = ltpost.crt(train, strengths=(0.1,), progress=False).head(0.1)
    assert np.array_equal(BalancedLinear(0.1).fit(X, y).head_.weight, expected.weight)


def test_a_method_that_needs_more_than_logits_is_refused():
    X, y = long_tailed()
    with pytest.raises(ValueError, match="needs head, and a classifier has logits only"):
        Rebalanced(LogisticRegression(), method="tnorm").fit(X, y)
    with pytest.raises(ValueError, match="did you mean"):
        Rebalanced(LogisticRegression(), method="laa").fit(X, y)
    with pytest.raises(ValueError, match="select= must be one of"):
        Rebalanced(LogisticRegression(), select="f2").fit(X, y)


def test_a_class_that_a_fold_does_not_see_is_never_predicted_there():
    X, y = long_tailed()
    y = np.where(np.arange(len(y)) == 7, 9, y)  # one row of class 9
    with pytest.warns(UserWarning, match="least populated class"):
        model = Rebalanced(LogisticRegression()).fit(X, y)
    assert list(model.classes_) == [0, 1, 2, 9]


def test_what_is_given_to_fit_goes_to_the_classifier_and_to_the_folds():
    X, y = long_tailed()
    weights, groups = np.where(y == 0, 0.2, 1.0), np.arange(len(y)) % 5
    plain = Rebalanced(LogisticRegression()).fit(X, y, sample_weight=weights)
    expected = LogisticRegression().fit(X, y, sample_weight=weights)
    np.testing.assert_allclose(plain.estimator_.coef_, expected.coef_)
    with pytest.raises(TypeError, match="sample_weight"):
        Rebalanced(KNeighborsClassifier()).fit(X, y, sample_weight=weights)
    with sklearn.config_context(enable_metadata_routing=True):
        asks = LogisticRegression().set_fit_request(sample_weight=True)
        model = Rebalanced(asks, cv=GroupKFold(5)).fit(X, y, sample_weight=weights, groups=groups)
        np.testing.assert_allclose(model.estimator_.coef_, expected.coef_)
        same = Rebalanced(asks, cv=PredefinedSplit(groups)).fit(X, y, sample_weight=weights)
        assert model.best_value_ == same.best_value_
        searched = GridSearchCV(
            Rebalanced(asks).set_score_request(sample_weight=True), {"estimator__C": [0.1, 1.0]}, cv=3
        ).fit(X, y, sample_weight=weights)
        assert searched.best_estimator_.estimator_.coef_.shape == expected.coef_.shape
