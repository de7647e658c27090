"""scikit-learn estimators: rebalance any fitted classifier, or fit a head on features.

    from ltpost.sklearn import Rebalanced

    model = Rebalanced(LogisticRegression(), method="la").fit(X, y)     # chosen on out-of-fold scores
    model.predict(X_new), model.best_value_

:class:`Rebalanced` takes any classifier with ``decision_function`` or ``predict_proba``, binary or multiclass.
:class:`NearestClassMean` and :class:`BalancedLinear` are ltpost's NCM and cRT over features (n_samples, n_features).

What this module does not do: read feature files. It needs scikit-learn, which is an extra.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn import get_config
from sklearn.base import BaseEstimator, ClassifierMixin, MetaEstimatorMixin, clone, is_classifier
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import check_cv
from sklearn.utils import Bunch, _safe_indexing, assert_all_finite, column_or_1d, indexable
from sklearn.utils.metadata_routing import MetadataRouter, MethodMapping, process_routing
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import _check_method_params, check_is_fitted, validate_data

from ltpost import methods
from ltpost.data.features import FeatureSet
from ltpost.data.priors import shot_groups
from ltpost.errors import LtpostError
from ltpost.heads import Array, Head
from ltpost.model_selection import Selection

_NEVER = 50.0  # how far below the least score of a row the score of a class lies that a fold did not see


class _HeadClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """Predictions from ``head_`` and ``classes_``, and the scores that the head reads."""

    classes_: Array
    head_: Head

    def _rows(self, X: Any) -> FeatureSet:
        raise NotImplementedError

    def _logits(self, X: Any) -> Array:
        check_is_fitted(self)
        rows = self._rows(X)
        return np.asarray(self.head_.reader(rows)(slice(0, len(rows))), dtype=np.float64)

    def decision_function(self, X: Any) -> Array:
        """Rebalanced logits, (n_samples, n_classes); with two classes their difference, (n_samples,)."""
        logits = self._logits(X)
        return logits[:, 1] - logits[:, 0] if logits.shape[1] == 2 else logits

    def predict_proba(self, X: Any) -> Array:
        """Softmax of the rebalanced logits, (n_samples, n_classes)."""
        logits = self._logits(X)
        odds = np.exp(logits - logits.max(axis=1, keepdims=True))
        return np.asarray(odds / odds.sum(axis=1, keepdims=True))

    def predict(self, X: Any) -> Array:
        """The class of the highest logit of every row, (n_samples,)."""
        best = self._logits(X).argmax(axis=1)
        return np.asarray(self.classes_[best])


class _FeatureClassifier(_HeadClassifier):
    """A method that fits to training features."""

    _method: str

    def _options(self) -> dict[str, Any]:
        return dict(self.get_params())

    def fit(self, X: Any, y: Any) -> Any:
        """Fit to features (n_samples, n_features) and labels of any type."""
        X, y = validate_data(self, X, y, dtype=[np.float64, np.float32])
        check_classification_targets(y)
        self.classes_, labels = np.unique(y, return_inverse=True)
        train = FeatureSet(X, labels, class_counts=np.bincount(labels), split="train", name="X")
        with _value_errors():
            family = methods.get(self._method)(train, **self._options())
            self.head_ = family.head() if family.parameter is None else family.head(self._value())
        return self

    def _value(self) -> float:
        raise NotImplementedError

    def _logits(self, X: Any) -> Array:
        layer = self.head_.linear() if hasattr(self, "head_") else None
        if layer is None:
            return super()._logits(X)
        X = validate_data(self, X, reset=False, dtype=[np.float64, np.float32])
        bias = 0.0 if layer.bias is None else layer.bias.astype(np.float64)
        return np.asarray(X @ layer.weight.T.astype(np.float64) + bias)  # float64, like scikit-learn's linear models

    def _rows(self, X: Any) -> FeatureSet:
        X = validate_data(self, X, reset=False, dtype=[np.float64, np.float32])
        return FeatureSet(X, np.zeros(len(X), dtype=np.int64), class_counts=np.ones(len(self.classes_), dtype=np.int64))


class NearestClassMean(_FeatureClassifier):
    """Nearest class mean (Kang et al., ICLR 2020); see :func:`ltpost.nearest_class_mean`.

    Args:
        metric: euclidean, cosine, l2n, cl2n or un.
    """

    _method = "ncm"

    def __init__(self, metric: str = "euclidean"):
        self.metric = metric


class BalancedLinear(_FeatureClassifier):
    """A linear classifier with all classes counted alike (cRT, Kang et al., ICLR 2020); see :func:`ltpost.crt`.

    Args:
        strength: of the L2 penalty; choose it with GridSearchCV.
        tolerance: of the solver, relative to the gradient at the start.
    """

    _method = "crt"

    def __init__(self, strength: float = 0.03, tolerance: float = 1e-4):
        self.strength, self.tolerance = strength, tolerance

    def _options(self) -> dict[str, Any]:
        return {"solver": "convex", "strengths": (self.strength,), "tolerance": self.tolerance, "progress": False}

    def _value(self) -> float:
        return self.strength


def _scores_of(estimator: Any, X: Any) -> Array:
    """Logits (n, C) of a fitted classifier: its decision function, else the log of its probabilities."""
    if hasattr(estimator, "decision_function"):
        scores = np.asarray(estimator.decision_function(X), dtype=np.float64)
        if scores.ndim == 1:
            scores = np.stack([np.zeros_like(scores), scores], axis=1)
        if scores.shape[1] == len(estimator.classes_):  # not one column per pair of classes
            return scores
    probabilities = np.asarray(estimator.predict_proba(X), dtype=np.float64)
    return np.log(np.maximum(probabilities, np.finfo(np.float32).tiny))


class Rebalanced(MetaEstimatorMixin, _HeadClassifier):  # type: ignore[misc]
    """Any classifier, rebalanced after it was fitted.

    The hyperparameter of the method is chosen on scores of rows that the classifier was not fitted to: out-of-fold
    scores, after which the classifier is fitted to all rows; or, for a frozen or prefit classifier, the rows given to
    ``fit``, which it must not have seen.

    Args:
        estimator: a classifier with ``decision_function`` or ``predict_proba``; ``FrozenEstimator(fitted)`` for a
            fitted one.
        method: la, mla or another method of ltpost that needs only logits and class counts.
        options: of the method.
        select: the figure to maximise: all (mean per-class accuracy), top1, many, medium, few, harmonic.
        grid: values between whose least and greatest one is chosen; default those of the method.
        cv: folds, a splitter, or "prefit".
        class_counts: (n_classes,) training samples per class in the order of ``classes_``; needed for a frozen or
            prefit classifier only.
        random_state: of the folds and of the bootstrap.

    Attributes:
        classes_: the labels.
        estimator_: the fitted classifier.
        head_: what rebalances its logits.
        best_value_: the chosen value, or None.
        curve_: accuracy against the value, or None.
    """

    def __init__(
        self,
        estimator: Any,
        *,
        method: str = "la",
        options: Mapping[str, Any] | None = None,
        select: str = "all",
        grid: Sequence[float] | None = None,
        cv: Any = 5,
        class_counts: Any = None,
        random_state: int = 0,
    ):
        self.estimator, self.method, self.options, self.select, self.grid = estimator, method, options, select, grid
        self.cv, self.class_counts, self.random_state = cv, class_counts, random_state

    def __sklearn_tags__(self) -> Any:
        tags, own = super().__sklearn_tags__(), self.estimator.__sklearn_tags__()
        tags.input_tags.sparse, tags.input_tags.allow_nan = own.input_tags.sparse, own.input_tags.allow_nan
        return tags

    @property
    def n_features_in_(self) -> int:
        """As of the fitted classifier."""
        check_is_fitted(self)
        return int(self.estimator_.n_features_in_)

    def get_metadata_routing(self) -> Any:
        """Where what is given to ``fit`` beside X and y goes: to the classifier's ``fit``, and to ``split`` of cv."""
        router = MetadataRouter(owner=self).add(
            estimator=self.estimator, method_mapping=MethodMapping().add(caller="fit", callee="fit")
        )
        if hasattr(self.cv, "get_metadata_routing"):
            router.add(splitter=self.cv, method_mapping=MethodMapping().add(caller="fit", callee="split"))
        return router

    def fit(self, X: Any, y: Any, **params: Any) -> Rebalanced:
        """Fit the classifier where it is not frozen, and choose the value.

        Args:
            X: what the classifier takes.
            y: (n_samples,) labels of any type.
            **params: for the classifier's ``fit``, such as ``sample_weight``; with metadata routing enabled, for
                whoever requests them.
        """
        if y is None:
            raise ValueError("Rebalanced requires y to be passed, but the target y is None")
        y = column_or_1d(y, warn=True)
        if y.dtype.kind == "f":
            assert_all_finite(y, input_name="y")
        check_classification_targets(y)
        X, y = indexable(X, y)
        with _value_errors():
            method = methods.get(self.method)
            selection = Selection(self.select, seed=self.random_state)
        lacking = [need for need in method.needs if need not in ("joint", "class_counts", "val")]
        if lacking:
            raise ValueError(
                f"method='{self.method}' needs {lacking[0]}, and a classifier has logits only; use la or mla"
            )
        if isinstance(self.estimator, FrozenEstimator) or (isinstance(self.cv, str) and self.cv == "prefit"):
            scores, counts = self._of_fitted(X)
        else:
            scores, counts = self._out_of_fold(X, y, self._routed(params))
        labels = np.searchsorted(self.classes_, y)
        if not np.array_equal(self.classes_[np.minimum(labels, len(self.classes_) - 1)], y):
            raise ValueError("y holds a class that the classifier does not know; see estimator.classes_")
        if len(self.classes_) < 2:
            raise ValueError(f"y must hold at least two classes, but holds one class: {self.classes_[0]}")
        val = FeatureSet(None, labels, logits=scores, class_counts=counts, split="val", name="X")
        needs = {"joint": val.joint, "class_counts": counts, "val": val}
        settings = {"seed": self.random_state, "progress": False}
        options = {**{name: settings[name] for name in method.settings if name in settings}, **(self.options or {})}
        grid = tuple(map(float, self.grid if self.grid is not None else method.grid))
        selection = Selection(
            self.select, shot_groups(counts), grid, self.random_state, grid_is_given=self.grid is not None
        )

        def family_of(rows: FeatureSet, target: FeatureSet) -> Any:
            return method(*({**needs, "val": rows}[need] for need in method.needs), **options)

        with _value_errors():
            fits = "val" in method.needs
            choice = selection.choose_fitted(val, family_of) if fits else selection.choose(val, family_of(val, val))
        self.head_, self.curve_ = choice.head, choice.curve
        self.best_value_ = None if choice.best is None else choice.best.value
        return self

    def _of_fitted(self, X: Any) -> tuple[Array, NDArray[np.int64]]:
        """Scores of the fitted classifier, and the counts that were given."""
        self.estimator_ = self.estimator
        check_is_fitted(self.estimator_)
        self.classes_ = np.asarray(self.estimator_.classes_)
        if self.class_counts is None:
            raise ValueError("class_counts= is needed: the training samples per class of the fitted classifier")
        counts = np.asarray(self.class_counts)
        if counts.shape != self.classes_.shape:
            raise ValueError(
                f"class_counts= must have {len(self.classes_)} entries like classes_, but has {counts.shape}"
            )
        return _scores_of(self.estimator_, X), counts.astype(np.int64)

    def _routed(self, params: Mapping[str, Any]) -> Any:
        """What goes to ``fit`` of the classifier and to ``split``: all to the former where routing is not enabled."""
        if get_config()["enable_metadata_routing"]:
            return {"splitter": Bunch(split={}), **process_routing(self, "fit", **params)}
        return {"estimator": Bunch(fit=params), "splitter": Bunch(split={})}

    def _out_of_fold(self, X: Any, y: Array, routed: Any) -> tuple[Array, NDArray[np.int64]]:
        """Scores of every row by a classifier that did not see it, and the counts; fits ``estimator_`` to all rows."""
        given = routed["estimator"].fit
        self.estimator_ = clone(self.estimator).fit(X, y, **_check_method_params(X, given))
        self.classes_, counts = np.unique(y, return_counts=True)
        scores = np.full((len(y), len(self.classes_)), np.nan)
        for train, test in check_cv(self.cv, y, classifier=is_classifier(self.estimator)).split(
            X, y, **routed["splitter"].split
        ):
            of_rows = _check_method_params(X, given, indices=train)
            fitted = clone(self.estimator).fit(_safe_indexing(X, train), y[train], **of_rows)
            known = np.searchsorted(self.classes_, fitted.classes_)
            part = _scores_of(fitted, _safe_indexing(X, test))
            scores[test] = part.min(axis=1, keepdims=True) - _NEVER
            scores[test[:, None], known] = part
        if np.isnan(scores).any():
            raise ValueError("cv= must put every row into one test fold; use KFold or StratifiedKFold")
        return scores, counts

    def _rows(self, X: Any) -> FeatureSet:
        scores = _scores_of(self.estimator_, X)
        return FeatureSet(None, np.zeros(len(scores), dtype=np.int64), logits=scores)


class _value_errors:
    """Errors of ltpost become ValueError, as scikit-learn's users expect."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, LtpostError):
            raise ValueError(str(error)) from None
