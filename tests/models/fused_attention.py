"""Stand-ins for a GPU that is not there: cuDNN's work is done by jax's own form, or its calls are lowered only."""

import jax


def through_xla(monkeypatch):
    """Hand what cuDNN is asked for to jax's own form, and keep the options it was asked with."""
    fused, asked = jax.nn.dot_product_attention, []

    def stand_in(*arrays, implementation, **options):
        assert implementation == "cudnn"
        asked.append(options)
        return fused(*arrays, implementation="xla", **options)

    monkeypatch.setattr("rlhf_jax.models.attention.jax.nn.dot_product_attention", stand_in)
    return asked


def pretend_gpu(monkeypatch):
    """Trace as for one GPU with a cuDNN of version 9.14, which jax looks up when it traces."""
    monkeypatch.setattr("rlhf_jax.models.attention.platform", lambda: "gpu")
    monkeypatch.setattr("rlhf_jax.models.decoding.platform", lambda: "gpu")
    for module in ("attention", "decoding"):
        monkeypatch.setattr(f"rlhf_jax.models.{module}.shares_known", lambda: True)
    monkeypatch.setattr("rlhf_jax.models.decoding.one_device", lambda: True)
    monkeypatch.setattr("jax._src.cudnn.fused_attention_stablehlo.check_cudnn_version", lambda: 91400)
