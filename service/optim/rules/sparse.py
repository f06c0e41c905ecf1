"""SparseAdam: Adam for gradients by rows, which leaves alone what has no row."""

from __future__ import annotations

from service.optim.rule import BETA1, BETA2, EPSILON, LEARNING_RATE, MAXIMIZE, Algorithm, Dialect, Rule, Values
from service.optim.rules.adam import adam, epsilon_hat

_RULE = Rule(adam, ("first_moment", "second_moment"), sparse="lazy")


def _choose(values: Values) -> Rule:
    return _RULE


SPARSE_ADAM = Algorithm(
    name="sparse_adam",
    title="SparseAdam",
    summary="Adam for sparse gradients: the moments of a row without a gradient stay as they are, and so does the row.",
    equation=r"\theta_t[r] = \theta_{t-1}[r] - \alpha \frac{\sqrt{1 - \beta_2^t}}{1 - \beta_1^t}\, "
    r"\frac{m_t[r]}{\sqrt{v_t[r]} + \epsilon}, \qquad r \in \mathrm{rows}(g_t)",
    source="D. P. Kingma and J. Ba, Adam: A Method for Stochastic Optimization, ICLR 2015, section 2, arXiv:1412.6980; "
    "the lazy form is that of torch.optim.SparseAdam.",
    when="Embeddings, of which a batch touches few rows. Not Adam with zeros for the rest: there the moments of an "
    "absent row fade and the row goes on moving.",
    hyperparameters=(LEARNING_RATE, BETA1, BETA2, EPSILON, MAXIMIZE),
    dialects={
        "torch": Dialect(
            {"learning_rate": 1e-3, "beta1": 0.9, "beta2": 0.999, "epsilon": 1e-8, "maximize": False},
            _choose,
            epsilon_hat,
            counter="parameter",
            differs="The bias correction counts the tensor's steps, not the row's, and ε is added to √v before it, "
            "unlike in torch's Adam. torch refuses a dense gradient; here it is one that has every row.",
        ),
    },
)

ALGORITHMS = (SPARSE_ADAM,)
