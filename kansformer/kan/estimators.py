"""Stand-alone networks as scikit-learn estimators; the only module here that needs scikit-learn.

Shape letters: N samples, I inputs, O outputs of the network.
"""

from __future__ import annotations

import numbers
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import KW_ONLY, dataclass, field
from typing import Literal, TypeAlias, cast

import numpy as np
import torch
from numpy.typing import ArrayLike
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.utils import Tags, check_random_state
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, column_or_1d, validate_data
from torch import Tensor

from kansformer.checks import check_integer
from kansformer.errors import ConfigError, DataError
from kansformer.kan.constraints import checked_constraints
from kansformer.kan.data import Dataset, check_squares
from kansformer.kan.estimator_inputs import ScaledInputs, varies, warn_of_far_values
from kansformer.kan.history import FitHistory
from kansformer.kan.network import KAN, Width
from kansformer.kan.selection import MIN_ROWS, SMOOTHNESS, Choices, Hidden, Search, Setting, make_folds

# What "auto" chooses from, simplest first.
HIDDEN: Sequence[Hidden] = ((), (2,), (5,))
GRIDS, SPARSITY = (5, 10, 20), (0.0, 3e-3, 3e-2)
# Optimizer and most steps of the fits that are only judged.
JUDGES = {"mse": ("lm", 12), "cross_entropy": ("lbfgs", 5)}
# Weight of the edges' entropies beside a sparsity that is given.
ENTROPY = 2.0

# Directions of the outputs, where an input may be monotone.
ONE_NUMBER, TWO_CLASSES = (1,), (-1, 1)

Auto: TypeAlias = Literal["auto"]


@dataclass(eq=False, repr=False)
class _Estimator(BaseEstimator):
    """Settings, scaled inputs and the network of both estimators; scikit-learn reads the settings off `__init__`."""

    hidden: Width | Auto = "auto"
    _: KW_ONLY
    grid_size: int | Auto = "auto"
    order: int = 3
    basis: str = "bspline"
    steps: int = 20
    sparsity: float | Auto = "auto"
    smoothness: float | Auto = "auto"
    optimizer: str = "lm"
    random_state: int | np.random.RandomState | None = None
    monotonic_cst: ArrayLike | Mapping[str, int] | None = None

    model_: KAN = field(init=False)
    history_: FitHistory = field(init=False)
    hidden_: Hidden = field(init=False)
    grid_size_: int = field(init=False)
    sparsity_: float = field(init=False)
    smoothness_: float = field(init=False)
    input_center_: np.ndarray = field(init=False)
    input_reach_: np.ndarray = field(init=False)

    def _fit_network(
        self,
        inputs: ScaledInputs,
        x_NI: np.ndarray,
        target_NO: np.ndarray,
        loss: str,
        constraints: Mapping[str, object],
    ) -> None:
        """Fit the network to checked inputs and scaled targets; after an error the estimator is unchanged."""
        warn_of_far_values(x_NI, getattr(self, "feature_names_in_", None))
        x, y, seed = inputs.scaled(x_NI), torch.from_numpy(target_NO), _seed(self.random_state)
        entropy, judge_steps = (0.0 if self.sparsity == "auto" else ENTROPY), check_integer("steps", self.steps, 0)
        judge_optimizer, most_steps = JUDGES[loss]

        def make(setting: Setting) -> KAN:
            width = [x.shape[1], *setting.hidden, y.shape[1]]
            return KAN(width, basis=self.basis, grid_size=setting.grid_size, order=self.order, seed=seed)

        def fit(model: KAN, data: Dataset, setting: Setting, optimizer: str, steps: int) -> FitHistory:
            return model.fit(
                data,
                optimizer=optimizer,
                loss=loss,
                steps=steps,
                sparsity=setting.sparsity,
                entropy=entropy,
                smoothness=setting.smoothness,
                constraints=constraints,
                progress=False,
            )

        def fit_to_judge(model: KAN, data: Dataset, setting: Setting) -> None:
            fit(model, data, setting, judge_optimizer, min(judge_steps, most_steps))

        is_curved = any(cast("Sequence[int]", constraints.get("curvature", ())))
        choices, data = self._choices(needs_no_layer=is_curved), Dataset(x, y, x[:0], y[:0])
        setting = choices.first
        if choices.several and len(x) >= MIN_ROWS:
            model = make(setting)
            fit(model, data, setting, self.optimizer, steps=0)  # checks all settings
            linear = loss == "mse" and model.layers[0].denominator is None and model.constraints is None
            setting = Search(make_folds(x, y, seed), make, fit_to_judge, loss, linear).choose(choices)
        model = make(setting)
        history = fit(model, data, setting, self.optimizer, self.steps)
        self.model_, self.history_ = model, history
        self.hidden_, self.grid_size_, self.smoothness_, self.sparsity_ = vars(setting).values()
        self.input_center_, self.input_reach_ = inputs.center, inputs.reach

    def _directions(self, outputs: int, loss: str) -> Mapping[str, object]:
        """The directions that `KAN.fit` is to hold the network to; for two classes the logits run apart."""
        if self.monotonic_cst is None:
            return {}
        if isinstance(self.monotonic_cst, Mapping):
            names = list(getattr(self, "feature_names_in_", ()))
            unknown = [name for name in self.monotonic_cst if name not in names]
            if unknown:
                raise ConfigError(
                    f"monotonic_cst names {unknown[0]!r:.80}, which is not a column. Choose from: {', '.join(names)}."
                    if names
                    else "monotonic_cst by names takes inputs with named columns, such as a pandas.DataFrame."
                )
            directions = [self.monotonic_cst.get(name, 0) for name in names]
        else:
            directions = np.asarray(self.monotonic_cst).tolist()
        if loss == "cross_entropy" and outputs != len(TWO_CLASSES):
            raise ConfigError(f"monotonic_cst is for the second of two classes; there are {outputs}.")
        return {"monotone": directions, "outputs": TWO_CLASSES if loss == "cross_entropy" else ONE_NUMBER * outputs}

    def _choices(self, *, needs_no_layer: bool) -> Choices:
        if not isinstance(self.hidden, str) and np.iterable(self.hidden):
            plain = (tuple(e) if isinstance(e, (list, tuple, np.ndarray)) else e for e in self.hidden)
            hidden: Sequence[Hidden] = (tuple(plain),)
        elif self.hidden == "auto":
            hidden = HIDDEN[:1] if needs_no_layer else HIDDEN
        else:
            raise ConfigError(f"hidden must be 'auto' or a sequence of widths such as (5,), got {self.hidden!r}.")
        return Choices(
            hidden=hidden,
            grids=GRIDS if self.grid_size == "auto" else (self.grid_size,),
            smoothness=SMOOTHNESS if self.smoothness == "auto" else (self.smoothness,),
            sparsity=SPARSITY if self.sparsity == "auto" else (self.sparsity,),
        )

    @contextmanager
    def _as_it_was_after_errors(self) -> Iterator[None]:
        """scikit-learn notes the columns of a table before anything else is checked."""
        attributes: dict[str, object] = self.__dict__
        before = attributes.copy()
        try:
            yield
        except BaseException:
            attributes.clear()
            attributes.update(before)
            raise

    def _outputs(self, X: ArrayLike) -> Tensor:
        """Outputs of the network for unchecked inputs, (N, O)."""
        check_is_fitted(self, "model_")
        x_NI = validate_data(self, X, dtype=np.float64, reset=False)
        return self.model_.predict(ScaledInputs(self.input_center_, self.input_reach_).scaled(x_NI))


@dataclass(eq=False, repr=False)
class KANRegressor(RegressorMixin, _Estimator):
    """A Kolmogorov-Arnold network (Liu et al., 2024) that predicts one or several numbers.

    Settings that are `auto` are chosen by cross-validation on up to 2,000 rows: five folds, or three for more than
    1,000 rows or several targets. A rougher or larger network is taken only if it is better by more than the standard
    errors of the rows' differences, so few or noisy rows get a smooth and small one; fewer than ten rows get the
    smoothest and smallest.

    Inputs are scaled to [-1, 1] from their ranges in training, and targets to mean 0 and standard deviation 1. At
    prediction a value outside its range counts as the nearest one in it, and a column that never varied in training
    counts for nothing. A few values far outside, as of a typing error, leave few knots for all others, and are a
    warning.

    Args:
        hidden: nodes of the hidden layers; a pair [sums, products] for a layer with product nodes; `auto` chooses from
            none (a sum of curves of the inputs), 2 and 5.
        grid_size: of all curves, as in `KAN`; `auto` chooses from 5, 10 and 20.
        order, basis: of all curves, as in `KAN`.
        steps: optimizer steps, as in `fit`.
        sparsity: weight of the edges' sizes and their entropy in the loss, 0 or more; `auto` chooses from 0, 3e-3 and
            3e-2, without the entropy.
        smoothness: weight of the curves' curvature in the loss, 0 or more: about 1e-4 for samples without noise, and
            3e-2 for a few hundred noisy ones; `auto` chooses from 1 to 1e-6.
        optimizer: `lm`, `lbfgs` or `adam`, as in `fit`; the latter takes some hundred steps.
        random_state: seed of the first coefficients, or a `numpy.random.RandomState` to draw it from; None is seed 0.
        monotonic_cst: for every column 1 (predictions never fall when it rises), -1 (they never rise) or 0, or a
            mapping of columns' names to these; exact for all inputs. None leaves all columns free.
        constraints: more shapes of the predictions, as in `KAN.fit` and in units of X and y: `lower` and `upper`
            bounds, a point to pass `through`, such as ([0, 0], 0), `curvature` without hidden layers. Exact to rounding
            for all inputs, but a curvature within the ranges of X; of a point outside of these the nearest one within.

    Attributes:
        model_: the network, of scaled inputs and targets.
        history_: errors of the scaled targets after every step.
        hidden_, grid_size_, smoothness_, sparsity_: what was chosen, or given.
        n_features_in_, feature_names_in_: I, and the columns' names if all have one.
        input_center_, input_reach_: (I,). The network sees (x - center) / reach; reach is infinite if x never varied.
        target_mean_, target_deviation_: (O,). Predictions are the network's outputs · deviation + mean; deviation is 0
            if y never varied, or 1 with `constraints`.

    Raises:
        ValueError: in `fit`, as it says.

    Examples:
        >>> from kansformer.kan import KANRegressor
        >>> x = torch.linspace(-1, 1, 60).unsqueeze(-1).numpy()
        >>> model = KANRegressor(hidden=(), grid_size=5, sparsity=0, smoothness=1e-6).fit(x, x[:, 0] ** 2)
        >>> model.predict([[0.5]]).round(2)
        array([0.25])
    """

    constraints: Mapping[str, object] | None = field(default=None, kw_only=True)

    target_mean_: np.ndarray = field(init=False)
    target_deviation_: np.ndarray = field(init=False)

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags

    def fit(self, X: ArrayLike, y: ArrayLike) -> KANRegressor:
        """Fit a new network.

        Args:
            X: inputs, (N, I), of 2 samples or more.
            y: targets, (N,) or (N, O).

        Returns:
            The estimator.

        Raises:
            ValueError: samples do not belong together, or they or the targets' squares are not finite; `ConfigError`,
                a kind of it: a setting is not among its choices.
        """
        with self._as_it_was_after_errors():
            x_NI, target = validate_data(
                self, X, y, dtype=np.float64, multi_output=True, y_numeric=True, ensure_min_samples=2
            )
            target_NO = target.reshape(len(target), -1).astype(np.float64)
            check_squares(torch.tensor(target_NO), "targets")
            mean_O, varies_O = target_NO.mean(axis=0), varies(target_NO)
            size_O = np.where(varies_O, np.abs(target_NO - mean_O).max(axis=0), 1.0)  # its square may be nothing
            spread_O = size_O * ((target_NO - mean_O) / size_O).std(axis=0)
            deviation_O = np.where(varies_O, spread_O, 0.0 if self.constraints is None else 1.0)
            inputs, scaled_NO = ScaledInputs.of(x_NI), (target_NO - mean_O) / np.where(varies_O, deviation_O, np.inf)
            constraints = {**self._directions(len(mean_O), "mse"), **self._shapes(inputs, mean_O, deviation_O)}
            self._fit_network(inputs, x_NI, scaled_NO, "mse", constraints)
            self.target_mean_, self.target_deviation_, self._targets_are_columns = mean_O, deviation_O, target.ndim == 2
        return self

    def _shapes(self, inputs: ScaledInputs, mean_O: np.ndarray, deviation_O: np.ndarray) -> dict[str, list]:
        """`constraints` for the network, which sees scaled inputs and targets."""
        given = None
        if self.constraints is not None:
            given = checked_constraints(self.constraints, KAN([len(inputs.center), len(mean_O)]))
        if given is None:
            return {}
        if any(given.monotone) and self.monotonic_cst is not None:
            raise ConfigError("Both monotonic_cst and constraints name directions. Give them in one of the two.")
        shapes = given.to_dict()
        for name in {"lower", "upper"} & set(shapes):
            bounds_O = (np.array(getattr(given, name)) - mean_O) / deviation_O
            shapes[name] = [bound if np.isfinite(bound) else None for bound in bounds_O.tolist()]
        if given.through is not None:
            point_I, value_O = map(np.array, given.through)
            shapes["through"] = [inputs.scaled(point_I).tolist(), ((value_O - mean_O) / deviation_O).tolist()]
        return shapes if any(given.monotone) else {name: shapes[name] for name in shapes if name != "monotone"}

    def predict(self, X: ArrayLike) -> np.ndarray:
        """Predictions for inputs (N, I): (N,), or (N, O) if the targets had columns."""
        predicted_NO = self._outputs(X).numpy() * self.target_deviation_ + self.target_mean_
        return predicted_NO if self._targets_are_columns else predicted_NO[:, 0]


@dataclass(eq=False, repr=False, kw_only=True)
class KANClassifier(ClassifierMixin, _Estimator):
    """A Kolmogorov-Arnold network (Liu et al., 2024) that predicts which of two or more classes a sample is of.

    The network has an output for each class, whose softmax are probabilities, and is fitted by cross-entropy. Inputs
    are treated as in `KANRegressor`.

    Args:
        hidden, grid_size, order, basis, random_state: as in `KANRegressor`.
        monotonic_cst: as in `KANRegressor`, of the probability of the second of two classes.
        sparsity, smoothness: as in `KANRegressor`; `auto` chooses by the cross entropy of three folds.
        steps: optimizer steps, as in `fit`. More of them overfit the probabilities.
        optimizer: `lbfgs`, or `adam`, which takes about 100 steps.

    Attributes:
        model_: the network, from scaled inputs to logits.
        classes_: the labels in the order of the network's outputs.
        history_: the mean cross entropy after every step.
        hidden_, grid_size_, smoothness_, sparsity_, n_features_in_, feature_names_in_, input_center_, input_reach_: as
            of `KANRegressor`.

    Raises:
        ValueError: in `fit`, as it says.

    Examples:
        >>> from kansformer.kan import KANClassifier
        >>> x = torch.rand(60, 2).numpy()
        >>> model = KANClassifier(hidden=(), grid_size=5, sparsity=0, smoothness=1e-3).fit(x, x[:, 0] > x[:, 1])
        >>> model.predict([[0.9, 0.1], [0.1, 0.9]])
        array([ True, False])
    """

    steps: int = 5
    optimizer: str = "lbfgs"
    classes_: np.ndarray = field(init=False)

    def fit(self, X: ArrayLike, y: ArrayLike) -> KANClassifier:
        """Fit a new network.

        Args:
            X: inputs, (N, I), of 2 samples or more.
            y: labels of any kind, (N,), of two classes or more.

        Returns:
            The estimator.

        Raises:
            ValueError: as in `KANRegressor.fit`, or all samples are of one class.
        """
        with self._as_it_was_after_errors():
            x_NI, labels = validate_data(self, X, y, dtype=np.float64, ensure_min_samples=2)
            check_classification_targets(labels)
            classes, class_N = np.unique(column_or_1d(labels, warn=True), return_inverse=True)
            if len(classes) < 2:
                raise DataError(f"All samples are of one class, {classes.tolist()[0]!r}. There must be two or more.")
            directions = self._directions(len(classes), "cross_entropy")
            self._fit_network(ScaledInputs.of(x_NI), x_NI, np.eye(len(classes))[class_N], "cross_entropy", directions)
            self.classes_ = classes
        return self

    def predict_proba(self, X: ArrayLike) -> np.ndarray:
        """Probabilities for inputs (N, I), one column for each of `classes_`."""
        return self._outputs(X).softmax(dim=-1).numpy()

    def predict(self, X: ArrayLike) -> np.ndarray:
        """The most probable labels for inputs (N, I), (N,)."""
        class_N = self._outputs(X).argmax(dim=-1).numpy()
        return self.classes_[class_N]


def _seed(random_state: int | np.random.RandomState | None) -> int:
    if random_state is None:
        return 0
    if isinstance(random_state, numbers.Integral):
        return int(random_state)
    return int(check_random_state(random_state).randint(2**31))
