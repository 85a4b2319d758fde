"""What an update may read, write and return."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from alignzoo.errors import did_you_mean
from alignzoo.rollout.columns import WRITABLE
from alignzoo.testing.algorithms.subject import AlgorithmSubject, only_rollouts
from alignzoo.testing.checks import NotApplicable, fail, require

if TYPE_CHECKING:
    from alignzoo.algorithm import Algorithm
    from alignzoo.rollout import RolloutBatch
    from alignzoo.testing.algorithms.calls import Call

SOURCES = ("rollouts", "demonstrations", "preferences", "ratings")


def needs_are_complete(subject: AlgorithmSubject) -> None:
    """An update runs, and reads no column and no output that `needs` does not declare."""
    from alignzoo.algorithm import Needs

    needs: Any = subject.needs
    require(
        isinstance(needs, Needs),
        f"needs is {needs!r}; return az.Needs(...) from a property of that name.",
    )
    require(
        needs.source in SOURCES,
        f"needs.source is {needs.source!r}; expected one of {', '.join(SOURCES)}.",
    )
    require(needs == subject.make().needs, "two with the same options have different needs.")
    error = subject.first_error
    require(error is None, f"an ordinary update raised: {error}")


def the_batch_is_not_changed(subject: AlgorithmSubject) -> None:
    """No loss changes the batch or the policy's output, and prepare only what it may write."""
    _check_prepare(subject)

    def probe(call: Call) -> None:
        before = call.batch.fingerprint()
        outputs = {name: x._version for name, x in vars(call.out).items() if x is not None}
        call.measure()
        call.run()
        changed = _changed(before, call.batch)
        require(
            not changed,
            f"{call.name} changes {_listed(changed)} of the batch. A loss is called once for each "
            "micro-batch and again for held-out rows: work on copies (x = batch.x.clone()), and "
            "write columns in prepare.",
        )
        for name, version in outputs.items():
            require(
                getattr(call.out, name)._version == version,
                f"{call.name} changes out.{name} in place; work on a copy: out.{name}.clone().",
            )

    scene = subject.scene()
    batch = scene.collect()
    before = batch.fingerprint()
    scene.update(batch, probe)
    changed = [name for name in _changed(before, batch) if name not in _writable(scene.algorithm)]
    require(
        not changed,
        f"update changes {_listed(changed)} of the batch in place; work on copies (x.clone()).",
    )


def _writable(algorithm: Algorithm) -> set[str]:
    """Returns the columns that an algorithm may write."""
    return {*WRITABLE, *algorithm.needs.columns}


def _check_prepare(subject: AlgorithmSubject) -> None:
    from alignzoo.learner import restrict

    scene = subject.scene()
    batch = scene.fill()
    before = batch.fingerprint()
    view = restrict(batch, scene.algorithm, may_write=True)
    with scene.draws():
        kept = scene.algorithm.keep(restrict(batch, scene.algorithm))
        scene.algorithm.prepare(view)
    allowed = _writable(scene.algorithm)
    changed = [name for name in _changed(before, view) if name not in allowed]
    require(
        not changed,
        f"prepare changes {_listed(changed)} in place. It may write {_listed(sorted(allowed))}: "
        "work on copies of the others, such as batch.rewards.clone().",
    )
    require(
        kept is None or tuple(kept.shape) == (len(batch),),
        f"keep returns {kept!r}; expected None or a bool of shape [B] = [{len(batch)}].",
    )


def _changed(before: dict[str, str], batch: RolloutBatch) -> list[str]:
    after = batch.fingerprint()
    return [name for name in before if after.get(name) != before[name]]


def _listed(names: Any) -> str:
    return ", ".join(f"'{name}'" for name in names)


def the_loss_is_repeatable(subject: AlgorithmSubject) -> None:
    """A loss called again on the same batch says the same, to the bit, whatever came between."""
    from alignzoo.testing.algorithms import batches

    def probe(call: Call) -> None:
        first = call.measure()
        half = [row for row in range(len(call.batch)) if row < (len(call.batch) + 2) // 4 * 2]
        call.measure(*batches.part(call.batch, call.out, half))
        again = call.measure()
        for name, gradient in first.gradients.items():
            require(
                gradient.equal(again.gradients[name]) and first.value.equal(again.value),
                f"{call.name} was {float(first.value):.9g} and is {float(again.value):.9g} when it "
                f"is called again{_of_gradient(name, first, again)}. Keep nothing between calls of "
                "a loss: it is called for each micro-batch and for held-out rows. State belongs "
                "into prepare, update or after_update.",
            )

    scene = subject.scene()
    scene.play(probe)


def _of_gradient(name: str, first: Any, again: Any) -> str:
    return "" if not first.value.equal(again.value) else f", with another gradient in out.{name}"


def metrics_are_known_and_finite(subject: AlgorithmSubject) -> None:
    """Every metric is a finite number, under a name that is known or that it explains itself."""
    from alignzoo.report.metric_names import MEANINGS

    target = subject.target
    for name, text in target.metrics.items():
        require(
            isinstance(text, str) and text.strip(),
            f"metrics['{name}'] is {text!r}; say in one line what the metric is.",
        )
    known = {*MEANINGS, *target.metrics}
    for metrics in subject.scene().play():
        for name, value in metrics.items():
            require(
                name in known,
                f"it reports '{name}', which nobody knows.{did_you_mean(name, known)} Explain it "
                f"in the class: metrics = {{'{name}': 'what it is, in one line'}}.",
            )
            require(
                math.isfinite(value),
                f"metric '{name}' is {value}. Report (sum, count) pairs, in which a mean over "
                "nothing is left out; a variance needs two or more numbers.",
            )


def the_loss_has_a_gradient(subject: AlgorithmSubject) -> None:
    """An update gives a gradient to what it trains; the policy learns, if it is trained."""
    from alignzoo.algorithm import Algorithm

    scene = subject.scene()
    start = scene.learner.get_vector()
    scene.play()
    gradients = scene.learner.gradients
    require(
        gradients or not start.equal(scene.learner.get_vector()),
        "two updates took no gradient from the learner and moved no parameter. Call "
        "learner.step(minibatch, self.loss) in update, or leave update as it is.",
    )
    if not gradients:
        raise NotApplicable("it moves the parameters itself, without a gradient")
    steers = type(scene.algorithm).shape_logits is not Algorithm.shape_logits
    of_model = {id(p) for p in scene.policy.model.parameters()}
    places = [
        place
        for place, parameter in enumerate(scene.learner.parameters)
        if steers or id(parameter) in of_model
    ]
    norms = [
        float(gradient.tensors[place].norm())  # type: ignore[union-attr]
        for gradient in gradients
        for place in places
        if gradient.tensors[place] is not None
    ]
    require(
        not places or any(norm > 0 for norm in norms),
        "no loss of two updates has a gradient in the policy's parameters. Is out.log_probs "
        "detached, or taken from batch.old_log_probs? Leave what is learned through attached: "
        "out.log_probs, out.entropy, out.values, out.logits.",
    )


def approx_kl_is_of_the_sampling_policy(subject: AlgorithmSubject) -> None:
    """approx_kl, where it is reported, compares with the policy that wrote the responses."""
    seen = []

    def probe(call: Call) -> None:
        metrics = call.measured.metrics
        if "approx_kl" in metrics and "old_log_probs" in call.batch.columns:
            seen.append((metrics["approx_kl"], *_expected_kls(call)))

    for drift in (False, True):
        subject.scene().play(probe, updates=1, drift=drift)
    if not seen:
        raise NotApplicable("no loss of it reports approx_kl")
    for found, *expected in seen:
        require(
            any(abs(found - value) <= 1e-3 + 1e-2 * value for value in expected),
            f"it reports approx_kl {found:.4g} where it is {expected[0]:.4g}: the mean over tokens "
            "of r - 1 - log r, r = exp(out.log_probs - batch.old_log_probs). Compare with "
            "batch.old_log_probs, never with out.log_probs.detach() or batch.ref_log_probs; clamp "
            "log r before exp.",
        )


def the_ratio_is_to_the_sampling_policy(subject: AlgorithmSubject) -> None:
    """Advantages are weighed by the ratio to the policy that wrote the responses, or by none."""
    import torch

    from alignzoo.testing.algorithms import batches

    only_rollouts(subject)
    seen = []

    def probe(call: Call) -> None:
        if call.is_curvature or "advantages" not in call.batch.columns:
            return
        seen.append(call)
        gap = 0.5 * torch.ones(call.batch.response_mask.shape).cumsum(1).remainder(2)

        def pull(**columns: Any) -> Any:
            return call.measure(batches.with_columns(call.batch, **columns)).gradients["log_probs"]

        if "ref_log_probs" in call.batch.columns:
            ref, nothing = call.batch.ref_log_probs, torch.zeros_like(call.batch.advantages)
            moved = {"ref_log_probs": ref - gap * call.batch.response_mask}
            by_advantage = pull(**moved) - pull()
            without = pull(**moved, advantages=nothing) - pull(advantages=nothing)
            require(
                float((by_advantage - without).abs().max()) <= 1e-5,
                f"{call.name}: how much an advantage weighs depends on batch.ref_log_probs, which "
                "are the frozen reference's. A ratio is to the policy that wrote the response: "
                "(out.log_probs - batch.old_log_probs).clamp(-20, 20).exp().",
            )
        gradient = call.measured.gradients["log_probs"]
        elsewhere = replace(call.out, log_probs=call.out.log_probs - gap)
        require(
            float(gradient.abs().max()) == 0
            or not call.measure(out=elsewhere).value.equal(call.measured.value),
            f"{call.name} has a gradient in out.log_probs, and its value is the same whatever they "
            "are: a ratio to out.log_probs.detach() is always 1, so no clip ever acts and a second "
            "pass over a rollout goes astray. Compare with batch.old_log_probs; without a ratio, "
            "write -(advantages * out.log_probs).",
        )

    subject.scene().play(probe)
    if not seen:
        raise NotApplicable("no loss of it is given advantages")


def _expected_kls(call: Call) -> list[float]:
    """Returns what approx_kl may be: of tokens, or of whole responses; k3 first, then k2 and k1."""
    import torch

    mask = call.batch.response_mask
    gap = (call.out.log_probs.detach() - call.batch.old_log_probs) * mask
    totals = gap.sum(1)
    spread = (totals / mask.sum(1))[:, None].expand_as(gap)[mask]
    candidates = [gap[mask], totals, totals / mask.sum(1), spread]
    estimates = [torch.expm1(x) - x for x in candidates]
    estimates += [x.square() / 2 for x in candidates]
    estimates += [-x for x in candidates]
    return [float(x.mean()) for x in estimates]


def low_precision_keeps_a_float32_loss(subject: AlgorithmSubject) -> None:
    """A model in bfloat16 still gives a loss in float32, taken in float32."""
    import torch

    values = []

    def probe(call: Call) -> None:
        value = call.run().value.detach()
        require(
            value.dtype in (torch.float32, torch.float64),
            f"{call.name} is {value.dtype} where the model's weights are bfloat16. Take it in "
            "float32: out.log_probs and out.values come so; say .float() of out.logits and "
            "out.hidden.",
        )
        values.append(float(value))

    scene = subject.scene(dtype=torch.bfloat16)
    for metrics in scene.play(probe):
        wrong = [name for name, value in metrics.items() if not math.isfinite(value)]
        require(not wrong, f"with a model in bfloat16 {_listed(wrong)} is not finite.")
    coarse = [value for value in values if value and value == float(torch.tensor(value).bfloat16())]
    if len(values) > 1 and len(coarse) == len([value for value in values if value]) > 1:
        fail(
            f"every loss ({', '.join(f'{value:.6g}' for value in values)}) is a number of "
            "bfloat16's 8 bits: it was taken in bfloat16. Say .float() before sums and exponents."
        )
