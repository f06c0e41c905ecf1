"""What torch, optax and Keras call the state that is kept here, so that a session can move there and back.

A `Form` says it of one algorithm in one library's dialect: which class it is, and under which name that class keeps
each slot. `STAYS` gives the reason for every other one. Clients read both from the catalogue entry, under `exchange`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from service.optim import catalogue
from service.optim.libraries.catalogue import SPELLINGS, spellings_of
from service.optim.libraries.spelling import OrNull, Spelling
from service.optim.rule import Algorithm

# What a library keeps beside its slots follows from the number of updates, t:
#   count             t
#   whole_count       t, as an integer of Python's
#   first             whether t is 0
#   averaging_share   1 / max(1, t - averaging_start)
#   momentum_product  ∏ β₁ (1 - 0.96ⁱ / 2) for i from 1 to t
Names = Mapping[str, "str | Kept"]
Derivation = Literal["count", "whole_count", "first", "averaging_share", "momentum_product"]


@dataclass(frozen=True)
class Kept:
    """How a library keeps a slot.

    called   torch: a key of each parameter's state; optax: a field of a state's class; Keras: the optimizer's attribute
    times    theirs is ours times this
    number   theirs is one number, for all elements of ours are equal
    shared   ours is one array for all parameters, and so is theirs
    starts   what ours holds for a parameter that has no state there yet: a number, or that of a hyperparameter
    needs    a hyperparameter; where it is 0 there is no such slot here, while the library may have one
    axes     it is kept for parameters with at least and at most so many axes; for others it is empty here
    """

    called: str
    times: float = 1.0
    number: bool = False
    shared: bool = False
    starts: float | str = 0.0
    needs: str | None = None
    axes: tuple[int, int] = (0, 64)


@dataclass(frozen=True)
class Form:
    """An algorithm as a library's class has it.

    slots     ours -> theirs, for all options of the class
    derived   what else the class keeps -> what it follows from
    fixed     arguments of the class that make it this algorithm
    at_once   torch: a parameter has state before its first step
    """

    like: str
    slots: Mapping[str, Kept]
    derived: Mapping[str, Derivation]
    fixed: Mapping[str, Any] = field(default_factory=dict)
    at_once: bool = False

    @property
    def spelling(self) -> Spelling:
        """The class and its arguments."""
        return SPELLINGS[self.like]


def _kept(slots: Names) -> dict[str, Kept]:
    return {name: Kept(kept) if isinstance(kept, str) else kept for name, kept in slots.items()}


def _torch(
    name: str,
    slots: Names,
    derived: Mapping[str, Derivation] | None = None,
    fixed: Mapping[str, Any] | None = None,
    at_once: bool = False,
) -> Form:
    follows: Mapping[str, Derivation] = {"step": "count"} if derived is None else derived
    return Form(f"torch.optim.{name}", _kept(slots), follows, fixed or {}, at_once)


def _optax(name: str, slots: Names, **derived: Derivation) -> Form:
    return Form(f"optax.{name}", _kept(slots), {"count": "count", **derived})


def _keras(name: str, slots: Names, fixed: Mapping[str, Any] | None = None, **more: Derivation) -> Form:
    return Form(f"keras.optimizers.{name}", _kept(slots), {"_iterations": "count", **more}, fixed or {})


def _shared(called: str) -> Kept:
    return Kept(called, shared=True)


_TORCH_ADAM = {"first_moment": "exp_avg", "second_moment": "exp_avg_sq"}
_TORCH_AMSGRAD = {**_TORCH_ADAM, "largest_second_moment": "max_exp_avg_sq"}
_TORCH_NADAM: Names = {**_TORCH_ADAM, "momentum_product": Kept("mu_product", number=True, starts=1.0)}
_TORCH_SGD = {"momentum_buffer": "momentum_buffer"}
_OPTAX_ADAM = {"first_moment": "mu", "second_moment": "nu"}
_OPTAX_AMSGRAD = {**_OPTAX_ADAM, "largest_second_moment": "nu_max"}
_OPTAX_BELIEF = {"first_moment": "mu", "variance": "nu"}
_OPTAX_SGD = {"momentum_buffer": Kept("trace", needs="momentum")}
_KERAS_ADAM = {"first_moment": "_momentums", "second_moment": "_velocities"}
_KERAS_AMSGRAD = {**_KERAS_ADAM, "largest_second_moment": "_velocity_hats"}
_KERAS_SGD = {"momentum_buffer": "momentums"}
_DISTANCE: Names = {
    "first_moment": "exp_avg",
    "second_moment": "exp_avg_sq",
    "gradient_sum": "grad_sum",
    "distance": _shared("estim_lr"),
    "numerator": _shared("numerator_weighted"),
}
_MOMO: Names = {
    "first_moment": "exp_avg",
    "mean_loss": _shared("barf"),
    "mean_slope": _shared("gamma"),
    "lower_bound": _shared("lb"),
}
_MATRICES, _OTHERS = (2, 64), (0, 1)

FORMS: dict[tuple[str, str], Form] = {
    ("sgd", "torch"): _torch("SGD", _TORCH_SGD, {}),
    ("momentum", "torch"): _torch("SGD", _TORCH_SGD, {}),
    ("nesterov", "torch"): _torch("SGD", _TORCH_SGD, {}),
    ("asgd", "torch"): _torch(
        "ASGD",
        {"rate": Kept("eta", number=True, starts="learning_rate"), "averaged_parameters": "ax"},
        {"step": "count", "mu": "averaging_share"},
    ),
    ("rprop", "torch"): _torch(
        "Rprop", {"previous_gradient": "prev", "step_size": Kept("step_size", starts="learning_rate")}
    ),
    ("adagrad", "torch"): _torch("Adagrad", {"sum": Kept("sum", starts="initial_accumulator_value")}, at_once=True),
    ("adadelta", "torch"): _torch("Adadelta", {"square_average": "square_avg", "accumulated_delta": "acc_delta"}),
    ("rmsprop", "torch"): _torch(
        "RMSprop",
        {"square_average": "square_avg", "gradient_average": "grad_avg", "momentum_buffer": "momentum_buffer"},
    ),
    ("adam", "torch"): _torch("Adam", _TORCH_AMSGRAD),
    ("adamw", "torch"): _torch("AdamW", _TORCH_AMSGRAD),
    ("amsgrad", "torch"): _torch("Adam", _TORCH_AMSGRAD, fixed={"amsgrad": True}),
    ("adamax", "torch"): _torch("Adamax", {"first_moment": "exp_avg", "infinity_norm": "exp_inf"}),
    ("nadam", "torch"): _torch("NAdam", _TORCH_NADAM),
    ("nadamw", "torch"): _torch("NAdam", _TORCH_NADAM, fixed={"decoupled_weight_decay": True}),
    ("radam", "torch"): _torch("RAdam", _TORCH_ADAM),
    ("sparse_adam", "torch"): _torch("SparseAdam", _TORCH_ADAM, {"step": "whole_count"}),
    ("adafactor", "torch"): _torch(
        "Adafactor",
        {
            "row_second_moment": Kept("row_var", axes=_MATRICES),
            "column_second_moment": Kept("col_var", axes=_MATRICES),
            "second_moment": Kept("variance", axes=_OTHERS),
        },
    ),
    ("muon", "torch"): _torch("Muon", {"momentum": "momentum_buffer"}, {}),
    ("sgd", "optax"): _optax("sgd", _OPTAX_SGD),
    ("momentum", "optax"): _optax("sgd", _OPTAX_SGD),
    ("nesterov", "optax"): _optax("sgd", _OPTAX_SGD),
    ("sign_sgd", "optax"): _optax("sign_sgd", {}),
    ("signum", "optax"): _optax("signum", {"first_moment": "ema"}),
    ("lion", "optax"): _optax("lion", {"first_moment": "mu"}),
    ("optimistic_gradient_descent", "optax"): _optax(
        "optimistic_gradient_descent", {"previous_gradient": "previous_gradient"}, is_initial_step="first"
    ),
    ("optimistic_adam", "optax"): _optax(
        "optimistic_adam_v2", {**_OPTAX_ADAM, "previous_direction": "previous_gradient"}, is_initial_step="first"
    ),
    ("rprop", "optax"): _optax("rprop", {"previous_move": "prev_updates", "step_size": "step_sizes"}),
    ("adagrad", "optax"): _optax("adagrad", {"sum": "sum_of_squares"}),
    ("adadelta", "optax"): _optax("adadelta", {"square_average": "e_g", "accumulated_delta": "e_x"}),
    ("rmsprop", "optax"): _optax(
        "rmsprop",
        # the rate and its sign are inside the trace
        {
            "square_average": "nu",
            "gradient_average": "mu",
            "momentum_buffer": Kept("trace", times=-1.0, needs="momentum"),
        },
    ),
    ("adam", "optax"): _optax("adam", _OPTAX_AMSGRAD),
    ("adamw", "optax"): _optax("adamw", _OPTAX_ADAM),
    ("amsgrad", "optax"): _optax("amsgrad", _OPTAX_AMSGRAD),
    ("adamax", "optax"): _optax("adamax", {"first_moment": "mu", "infinity_norm": "nu"}),
    ("nadam", "optax"): _optax("nadam", _OPTAX_ADAM),
    ("nadamw", "optax"): _optax("nadamw", _OPTAX_ADAM),
    ("radam", "optax"): _optax("radam", _OPTAX_ADAM),
    ("yogi", "optax"): _optax("yogi", _OPTAX_ADAM),
    ("adabelief", "optax"): _optax("adabelief", _OPTAX_BELIEF),
    ("acprop", "optax"): _optax("contrib.acprop", _OPTAX_BELIEF),
    ("adan", "optax"): _optax(
        "adan",
        {"first_moment": "m", "mean_change": "v", "second_moment": "n", "previous_gradient": "g"},
        t="count",
    ),
    ("ademamix", "optax"): _optax(
        "contrib.ademamix",
        {"first_moment": "m1", "slow_first_moment": "m2", "second_moment": "nu"},
        count_m2="count",
    ),
    ("simplified_ademamix", "optax"): _optax(
        "contrib.simplified_ademamix", {"momentum_buffer": "m", "second_moment": "n"}, t="count"
    ),
    ("adopt", "optax"): _optax("contrib.adopt", _OPTAX_ADAM),
    ("cocob", "optax"): _optax(
        "contrib.cocob",
        {
            "first_parameters": "init_particles",
            "sum": "cumulative_gradients",
            "largest_gradient": "scale",
            "sum_of_sizes": "subgradients",
            "reward": "reward",
        },
    ),
    ("madgrad", "optax"): _optax(
        "contrib.madgrad", {"sum": "s", "sum_of_squares": "grad_sum_sq", "first_parameters": "x0"}
    ),
    ("prodigy", "optax"): _optax("contrib.prodigy", {**_DISTANCE, "first_parameters": "params0"}),
    ("dadapt_adamw", "optax"): _optax("contrib.dadapt_adamw", _DISTANCE),
    ("dog", "optax"): _optax(
        "contrib.dog",
        {
            "first_parameters": "init_params",
            "largest_distance": _shared("max_dist"),
            "squared_gradients": _shared("sum_sq_norm_grads"),
        },
        is_init_step="first",
    ),
    ("dowg", "optax"): _optax(
        "contrib.dowg",
        {
            "first_parameters": "init_params",
            "largest_squared_distance": _shared("estim_sq_dist"),
            "weighted_squared_gradients": _shared("weighted_sq_norm_grads"),
        },
    ),
    ("polyak_sgd", "optax"): _optax("polyak_sgd", {}),
    ("momo", "optax"): _optax("contrib.momo", _MOMO),
    ("momo_adam", "optax"): _optax("contrib.momo_adam", {**_MOMO, "second_moment": "exp_avg_sq"}),
    ("lamb", "optax"): _optax("lamb", _OPTAX_ADAM),
    ("lars", "optax"): _optax("lars", {"velocity": Kept("trace", times=-1.0)}),
    ("fromage", "optax"): _optax("fromage", {}),
    ("novograd", "optax"): _optax("novograd", _OPTAX_ADAM),
    ("sgd", "keras"): _keras("SGD", _KERAS_SGD),
    ("momentum", "keras"): _keras("SGD", _KERAS_SGD),
    ("nesterov", "keras"): _keras("SGD", _KERAS_SGD),
    ("rmsprop", "keras"): _keras(
        "RMSprop",
        {"square_average": "_velocities", "gradient_average": "_average_gradients", "momentum_buffer": "_momentums"},
    ),
    ("adam", "keras"): _keras("Adam", _KERAS_AMSGRAD),
    ("adamw", "keras"): _keras("AdamW", _KERAS_AMSGRAD),
    ("amsgrad", "keras"): _keras("Adam", _KERAS_AMSGRAD, {"amsgrad": True}),
    ("adagrad", "keras"): _keras("Adagrad", {"sum": "_accumulators"}),
    ("adadelta", "keras"): _keras(
        "Adadelta", {"square_average": "_accumulated_grads", "accumulated_delta": "_accumulated_delta_vars"}
    ),
    ("adamax", "keras"): _keras("Adamax", {"first_moment": "_m", "infinity_norm": "_u"}),
    ("nadam", "keras"): _keras("Nadam", _KERAS_ADAM, _u_product="momentum_product"),
    ("ftrl", "keras"): _keras("Ftrl", {"sum_of_squares": "_accumulators", "linear": "_linears"}),
    ("lion", "keras"): _keras("Lion", {"first_moment": "_momentums"}),
    ("lamb", "keras"): _keras("Lamb", _KERAS_ADAM),
    ("schedule_free_adamw", "keras"): _keras(
        "ScheduleFreeAdamW", {"base_parameters": "_momentums", "second_moment": "_velocities"}
    ),
    ("adafactor", "keras"): _keras(
        "Adafactor",
        {
            "row_second_moment": Kept("_r", axes=_MATRICES),
            "column_second_moment": Kept("_c", axes=_MATRICES),
            "second_moment": Kept("_v", axes=_OTHERS),
        },
    ),
}

_WRAPS = "it keeps the state of the optimizer that it wraps inside its own; move that one instead"
_PARTS = "it gives some parameters to another optimizer, and keeps their state apart from the others'"
_SEARCH = "the past steps and the line search under way are laid out otherwise in every implementation"

STAYS: dict[tuple[str, str], str] = {
    ("lbfgs", "torch"): _SEARCH,
    ("lbfgs", "optax"): _SEARCH,
    ("muon", "optax"): _PARTS,
    ("muon", "keras"): _PARTS,
    ("lookahead", "optax"): _WRAPS,
    ("schedule_free", "optax"): _WRAPS,
    ("schedule_free_sgd", "optax"): _WRAPS,
    ("schedule_free_adamw", "optax"): _WRAPS,
    ("mechanic", "optax"): _WRAPS,
    ("sam", "optax"): _WRAPS,
    ("noisy_sgd", "optax"): "its noise comes from a key of jax's, which draws other numbers than the generator here",
    ("ldog", "optax"): "optax's rule of that name keeps its sums per tensor in arrays of one element, not of none",
    ("sm3", "optax"): "it keeps one vector for each axis of a parameter, and here they are one array",
    ("adafactor", "optax"): "optax keeps placeholders where it does not factor, which no shape tells from state",
}


def describe(algorithm: Algorithm) -> dict[str, Any]:
    """The catalogue entry of an algorithm, with the names that libraries have for its state.

    Under `state`, `called` gives them by dialect; under `exchange` stands all that it takes to move a session.
    """
    entry = catalogue.describe(algorithm, spellings_of(algorithm.name))
    for slot in entry["state"]:
        called = {
            dialect: form.slots[slot["name"]].called
            for (name, dialect), form in FORMS.items()
            if name == algorithm.name and slot["name"] in form.slots
        }
        if called:
            slot["called"] = called
    exchange = {dialect: _told(algorithm, dialect) for dialect in algorithm.dialects}
    entry["exchange"] = {dialect: told for dialect, told in exchange.items() if told}
    return entry


def algorithm_of(path: str) -> str | None:
    """The algorithm that a library's class is, by our name."""
    return SPELLINGS[path].algorithm if path in SPELLINGS else None


def _told(algorithm: Algorithm, dialect: str) -> dict[str, Any]:
    form = FORMS.get((algorithm.name, dialect))
    if form is None:
        reason = STAYS.get((algorithm.name, dialect))
        return {"stays": reason} if reason else {}
    defaults = algorithm.dialects[dialect].defaults
    arguments = _arguments(form.spelling, defaults)
    said = {name for theirs in arguments.values() for name in theirs["is"]}
    return {
        "like": form.like,
        "arguments": arguments,
        "fixed": dict(form.fixed),
        "unsaid": {name: value for name, value in defaults.items() if name not in said},
        "slots": {name: _slot(kept) for name, kept in form.slots.items()},
        "derived": dict(form.derived),
        **({"at_once": True} if form.at_once else {}),
    }


def _arguments(spelling: Spelling, defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Their arguments that are hyperparameters here: by which names, and what null means where it means something."""
    found: dict[str, Any] = {}
    for name, target in spelling.arguments.items():
        if isinstance(target, str | tuple):
            found[name] = {"is": [target] if isinstance(target, str) else list(target)}
            if isinstance(target, str):
                continue
            found[name]["list"] = True
        elif isinstance(target, OrNull) and target.name in defaults:
            found[name] = {"is": [target.name], "null": target.null(defaults[target.name])}
    return {name: told for name, told in found.items() if all(ours in defaults for ours in told["is"])}


def _slot(kept: Kept) -> dict[str, Any]:
    """What is not as it nearly always is."""
    usual = asdict(Kept(kept.called))
    told = {name: value for name, value in asdict(kept).items() if name == "called" or value != usual[name]}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in told.items()}
