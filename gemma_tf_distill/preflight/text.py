"""A preflight's verdicts, for a person."""

from gemma_tf_distill.preflight.preflight import Preflight
from gemma_tf_distill.preflight.verdict import Verdict

_NAMED = 5


def render(preflight: Preflight) -> str:
    """Lines: does it fit, what takes the memory, how fast it could be, and what to change."""
    lines = [
        f"{preflight.topology}, {preflight.devices} devices, {preflight.tokens:,} tokens a device and step, {preflight.words:,} words",
        "",
        *_verdict("training step", preflight.training),
        "",
        *_verdict("teacher's scorer", preflight.scorer),
        "",
    ]
    settings = " ".join(f"--set {key}={value}" for key, value in preflight.changes.items())
    if preflight.training.fits:
        lines.append(f"the training step fits as it is{f', and with {settings}' if settings else ''}")
    elif preflight.proposal is None:
        lines.append(
            "no setting was found with which the training step fits: choose a smaller student, vocabulary or window, or a larger chip"
        )
    else:
        lines.append(f"the training step fits with {settings}")
    if not preflight.scorer.fits:
        lines.append("the teacher's scorer does not fit: lower teacher.batch_size, or score in teacher.dtype: bfloat16")
    return "\n".join(lines)


def _verdict(name: str, verdict: Verdict) -> list[str]:
    memory = verdict.hbm_bytes
    kinds = ", ".join(f"{kind} {_gib(size)}" for kind, size in memory.items() if kind != "total" and size)
    word = "fits" if verdict.fits else "DOES NOT FIT"
    lines = [
        f"{name} {word}: {_gib(memory['total'])} of {_gib(verdict.hbm_limit_bytes)} GiB",
        f"  GiB: {kinds}",
        f"  {verdict.flops / 1e12:.3g} TFLOP, {verdict.bytes / 1e9:.3g} GB moved: at least {verdict.step_seconds_bound * 1e3:.3g} ms "
        f"(bound by {verdict.bound_by}), MFU at most {verdict.mfu_bound:.0%}",
    ]
    return lines + [
        f"  {_gib(buffer.bytes)} GiB  {buffer.shape}  {buffer.operation or buffer.name}" for buffer in verdict.largest_buffers[:_NAMED]
    ]


def _gib(size: int) -> str:
    return f"{size / 2**30:.2f}"
