"""Steering vectors as a method of peftbench. Only the record, without torch, so that importing it stays fast."""

from types import MappingProxyType

from peftbench.methods import FLOATS, QUANTIZED, Method, Setting

METHOD = Method(
    name="steering",
    title="steering vectors",
    paper="after Subramani et al. 2022, arXiv:2205.05124",
    attach="peftbench_steering.vectors:attach",
    save="peftbench_steering.vectors:save",
    load="peftbench_steering.vectors:load",
    precisions=FLOATS + QUANTIZED,
    options=MappingProxyType({"layers": Setting(int | None, None, "number of topmost layers steered", shown="all")}),
    training=MappingProxyType({"learning_rate": 3e-2}),
    color="#bcbd22",
)
