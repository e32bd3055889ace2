#!/usr/bin/env python3
"""Makes the golden files of this folder: small graphs of our own, and what ONNX Runtime computes with them.

    make.py              writes every file again
    make.py residual     writes those of one graph

Needs `pip install onnx onnxruntime numpy`; versions.json says with which versions and on which processor the committed
files were made. Everything is seeded. For each graph NAME there are

    NAME.onnx            the float graph, with a symbolic batch `N` and batch norms that are not folded
    NAME.npz             `input`; `output` without and `output_optimized` with ONNX Runtime's graph optimizations
    NAME.u8.onnx         the graph as onnxruntime.quantization makes it: QDQ, uint8 activations, int8 weights a channel
    NAME.u8.npz          `input`, every result of a QuantizeLinear by its name, and the outputs: without optimizations, which
                         means float operators between dequantized values, the definition
    NAME.u8.optimized.npz  the same values (no `input`) with all optimizations, which means ONNX Runtime's integer kernels

and for some graphs the same with `s8` for int8 activations. The integer kernels of ONNX Runtime saturate on processors that have
AVX2 but no VNNI: make the files on one that has it.
"""

import json
import platform
import sys
import tempfile
import zlib
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantFormat,
    QuantType,
    quantize_static,
)

OUT = Path(__file__).resolve().parent
BATCH, CALIBRATION_BATCHES = 3, 8
LARGEST_GRAPH = 60_000


# ---- building graphs ---------------------------------------------------------------------------------------


class Builder:
    """An ONNX graph under construction. Values are named as exporters name them: after the node."""

    def __init__(self, name, shape, opset=17):
        self.name, self.shape, self.opset = name, shape, opset
        self.rng = np.random.default_rng(zlib.crc32(name.encode()))
        self.nodes, self.initializers = [], []

    def weight(self, name, array):
        self.initializers.append(numpy_helper.from_array(np.asarray(array), name))
        return name

    def floats(self, name, array):
        return self.weight(name, np.asarray(array, np.float32))

    def integers(self, name, values):
        return self.weight(name, np.asarray(values, np.int64))

    def node(self, op, inputs, name, **attributes):
        output = f"{name}_output"
        self.nodes.append(helper.make_node(op, inputs, [output], name=f"/{name}/{op}", **attributes))
        return output

    def conv(self, x, name, channels, to, kernel, group=1, bias=False, **attributes):
        fan_in = channels // group * kernel * kernel
        weight = self.rng.normal(0, np.sqrt(2 / fan_in), (to, channels // group, kernel, kernel))
        inputs = [x, self.floats(f"{name}.weight", weight)]
        if bias:
            inputs.append(self.floats(f"{name}.bias", self.rng.normal(0, 0.1, to)))
        attributes.setdefault("pads", [kernel // 2] * 4)
        return self.node("Conv", inputs, name, kernel_shape=[kernel] * 2, group=group, **attributes)

    def batch_norm(self, x, name, channels):
        rng = self.rng
        parameters = [
            self.floats(f"{name}.weight", rng.uniform(0.6, 1.4, channels)),
            self.floats(f"{name}.bias", rng.normal(0, 0.2, channels)),
            self.floats(f"{name}.running_mean", rng.normal(0, 0.2, channels)),
            self.floats(f"{name}.running_var", rng.uniform(0.5, 1.5, channels)),
        ]
        return self.node("BatchNormalization", [x, *parameters], name, epsilon=1e-5)

    def conv_bn(self, x, name, channels, to, kernel, **attributes):
        return self.batch_norm(self.conv(x, f"{name}.conv", channels, to, kernel, **attributes), f"{name}.bn", to)

    def relu(self, x, name):
        return self.node("Relu", [x], name)

    def relu6(self, x, name):
        low, high = self.floats(f"{name}.min", 0.0), self.floats(f"{name}.max", 6.0)
        return self.node("Clip", [x, low, high], name)

    def linear(self, x, name, features, to):
        weight = self.floats(f"{name}.weight", self.rng.normal(0, np.sqrt(1 / features), (to, features)))
        bias = self.floats(f"{name}.bias", self.rng.normal(0, 0.1, to))
        return self.node("Gemm", [x, weight, bias], name, transB=1)

    def head(self, x, channels, classes=10):
        x = self.node("GlobalAveragePool", [x], "avgpool")
        return self.linear(self.node("Flatten", [x], "flatten"), "fc", channels, classes)

    def model(self, x):
        self.nodes[-1].output[0] = "output"
        for node in self.nodes[:-1]:
            assert x not in node.input
        graph = helper.make_graph(
            self.nodes,
            self.name,
            [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["N", *self.shape])],
            [helper.make_tensor_value_info("output", TensorProto.FLOAT, None)],
            self.initializers,
        )
        opsets = [helper.make_opsetid("", self.opset)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=8, producer_name="octofold-golden")
        model = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
        del model.graph.value_info[:]
        onnx.checker.check_model(model, full_check=True)
        return model


def residual():
    """Conv-BN-ReLU with residual additions: identity, and a strided shortcut of its own."""
    b = Builder("residual", [3, 16, 16])
    x = b.relu(b.conv_bn("input", "stem", 3, 12, 3), "stem.relu")
    y = b.relu(b.conv_bn(x, "layer1.a", 12, 12, 3), "layer1.relu_a")
    y = b.conv_bn(y, "layer1.b", 12, 12, 3)
    x = b.relu(b.node("Add", [y, x], "layer1.add"), "layer1.relu_b")
    y = b.relu(b.conv_bn(x, "layer2.a", 12, 20, 3, strides=[2, 2]), "layer2.relu_a")
    y = b.conv_bn(y, "layer2.b", 20, 20, 3)
    shortcut = b.conv_bn(x, "layer2.down", 12, 20, 1, strides=[2, 2])
    x = b.relu(b.node("Add", [shortcut, y], "layer2.add"), "layer2.relu_b")
    return b.model(b.head(x, 20))


def depthwise():
    """Depthwise-separable convolutions with ReLU6 as Clip, one inverted bottleneck, a dilated and a 5 x 5 depthwise layer."""
    b = Builder("depthwise", [3, 18, 18], opset=13)
    x = b.relu6(b.conv_bn("input", "stem", 3, 16, 3, strides=[2, 2]), "stem.relu6")
    y = b.relu6(b.conv_bn(x, "block1.expand", 16, 40, 1), "block1.relu6_a")
    y = b.relu6(b.conv_bn(y, "block1.depthwise", 40, 40, 3, group=40), "block1.relu6_b")
    y = b.conv_bn(y, "block1.project", 40, 16, 1)
    x = b.node("Add", [x, y], "block1.add")
    x = b.conv_bn(x, "block2.depthwise", 16, 16, 5, group=16, strides=[2, 2])
    x = b.relu6(b.conv_bn(x, "block2.project", 16, 33, 1), "block2.relu6")
    x = b.conv_bn(x, "block3.depthwise", 33, 33, 3, group=33, dilations=[2, 2], pads=[2] * 4)
    x = b.relu6(x, "block3.relu6")
    return b.model(b.head(x, 33))


def concat_pool():
    """Branches of different ranges joined by Concat, both kinds of pooling with borders, asymmetric pads, a grouped layer."""
    b = Builder("concat_pool", [4, 15, 15])
    x = b.relu(b.conv("input", "stem", 4, 16, 3, bias=True, pads=[0, 1, 2, 1]), "stem.relu")
    first = b.relu(b.conv(x, "branch1", 16, 9, 1, bias=True), "branch1.relu")
    first = b.node("MaxPool", [first], "branch1.pool", kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4)
    second = b.conv(x, "branch2", 16, 12, 3, bias=True, group=2, strides=[2, 2])
    third = b.node(
        "AveragePool", [x], "branch3.pool", kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4, count_include_pad=0
    )
    x = b.node("Concat", [first, second, third], "concat", axis=1)
    x = b.relu(b.conv(x, "mix", 37, 24, 1, bias=True), "mix.relu")
    x = b.node("AveragePool", [x], "pool", kernel_shape=[2, 2], strides=[2, 2])
    return b.model(b.head(x, 24))


def squeeze_excite():
    """A squeeze-and-excite block (a product with one factor a channel), SiLU as x * sigmoid(x), LeakyReLU."""
    b = Builder("squeeze_excite", [3, 12, 12])
    x = b.conv_bn("input", "stem", 3, 16, 3)
    x = b.node("Mul", [x, b.node("Sigmoid", [x], "stem.sigmoid")], "stem.silu")
    y = b.conv_bn(x, "block", 16, 24, 3, strides=[2, 2])
    y = b.node("LeakyRelu", [y], "block.leaky", alpha=0.1)
    s = b.node("GlobalAveragePool", [y], "se.squeeze")
    s = b.relu(b.conv(s, "se.reduce", 24, 8, 1, bias=True), "se.relu")
    s = b.node("Sigmoid", [b.conv(s, "se.expand", 8, 24, 1, bias=True)], "se.sigmoid")
    y = b.node("Mul", [y, s], "se.excite")
    x = b.conv(y, "project", 24, 20, 1, bias=True)
    return b.model(b.head(x, 20))


def mlp():
    """MatMul + Add, as exporters write a linear layer over more than two axes, and Gemm with and without transB."""
    b = Builder("mlp", [5, 24], opset=13)
    x = b.node("MatMul", ["input", b.floats("up.weight", b.rng.normal(0, 0.2, (24, 48)))], "up.matmul")
    x = b.node("Add", [b.floats("up.bias", b.rng.normal(0, 0.2, 48)), x], "up.add")
    x = b.relu(x, "up.relu")
    x = b.node("MatMul", [x, b.floats("down.weight", b.rng.normal(0, 0.15, (48, 17)))], "down.matmul")
    x = b.node("Add", [x, b.floats("down.bias", b.rng.normal(0, 0.2, 17))], "down.add")
    x = b.relu(b.linear(b.node("Flatten", [x], "flatten"), "fc1", 5 * 17, 37), "fc1.relu")
    weight = b.floats("fc2.weight", b.rng.normal(0, 0.2, (37, 10)))
    bias = b.floats("fc2.bias", b.rng.normal(0, 0.1, 10))
    return b.model(b.node("Gemm", [x, weight, bias], "fc2"))


def shape_arithmetic():
    """What torch leaves of `x.view(x.size(0), -1)`, of a channel shuffle and of a shortcut by slicing and padding."""
    b = Builder("shape_arithmetic", [3, 14, 14])
    x = b.relu(b.conv("input", "conv1", 3, 12, 3, bias=True), "relu1")

    # Shuffle: [N, 12, H, W] to [N, 3, 4, H, W], transposed, and back; sizes read from the tensor.
    sizes = b.node("Shape", [x], "shuffle.shape")

    def size(axis):
        index = b.integers(f"shuffle.index{axis}", axis)
        return b.node("Gather", [sizes, index], f"shuffle.size{axis}", axis=0)

    def row(value, name):
        return b.node("Unsqueeze", [value, b.integers(f"{name}.axes", [0])], name)

    n, c, h, w = (size(axis) for axis in range(4))
    part = b.node("Div", [c, b.integers("shuffle.groups", 3)], "shuffle.div")
    three = b.integers("shuffle.three", [3])
    rows = [row(n, "row_n"), three, row(part, "row_c"), row(h, "row_h"), row(w, "row_w")]
    y = b.node("Reshape", [x, b.node("Concat", rows, "shuffle.split", axis=0)], "shuffle.view")
    y = b.node("Transpose", [y], "shuffle.transpose", perm=[0, 2, 1, 3, 4])
    rows = [rows[0], b.integers("shuffle.rest", [-1]), rows[3], rows[4]]
    x = b.node("Reshape", [y, b.node("Concat", rows, "shuffle.join", axis=0)], "shuffle.back")

    # The shortcut without weights of the first ResNets: every other pixel, and zeros for the new channels.
    y = b.conv(x, "conv2", 12, 20, 3, bias=True, strides=[2, 2])
    ends = [b.integers(f"slice.{name}", value) for name, value in
            [("starts", [0, 0]), ("ends", [2**63 - 1] * 2), ("axes", [2, 3]), ("steps", [2, 2])]]
    s = b.node("Slice", [x, *ends], "shortcut.slice")
    pads = b.node("Concat", [b.integers("pad.before", [0, 4, 0, 0]), b.integers("pad.after", [0, 4, 0, 0])], "pad.pads", axis=0)
    s = b.node("Pad", [s, pads, b.floats("pad.value", 0.0)], "shortcut.pad")
    x = b.relu(b.node("Add", [y, s], "add"), "relu2")

    x = b.node("MaxPool", [x], "pool", kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1)
    batch = b.node("Gather", [b.node("Shape", [x], "view.shape"), b.integers("view.zero", 0)], "view.size", axis=0)
    batch = b.node("Unsqueeze", [batch, b.integers("view.axes", [0])], "view.row")
    shape = b.node("Concat", [batch, b.integers("view.minus_one", [-1])], "view.concat", axis=0)
    x = b.node("Reshape", [x, shape], "view")
    return b.model(b.linear(x, "fc", 20 * 4 * 4, 10))


# The activations in which each graph is quantized.
GRAPHS = {
    residual: ["u8", "s8"],
    depthwise: ["u8"],
    concat_pool: ["u8"],
    squeeze_excite: ["u8", "s8"],
    mlp: ["u8"],
    shape_arithmetic: ["u8"],
}


# ---- running ONNX Runtime ----------------------------------------------------------------------------------


def session(model, optimized):
    options = ort.SessionOptions()
    level = ort.GraphOptimizationLevel
    options.graph_optimization_level = level.ORT_ENABLE_ALL if optimized else level.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def run(model, x, optimized):
    s = session(model, optimized)
    names = [output.name for output in s.get_outputs()]
    return dict(zip(names, s.run(names, {"input": x})))


def sample(name, shape, batch, index):
    rng = np.random.default_rng([zlib.crc32(name.encode()), index])
    return rng.normal(0, 1, (batch, *shape)).astype(np.float32)


class Reader(CalibrationDataReader):
    """The calibration data: index 0 is the golden input, calibration begins at 1."""

    def __init__(self, name, shape):
        self.batches = iter([{"input": sample(name, shape, 16, 1 + i)} for i in range(CALIBRATION_BATCHES)])

    def get_next(self):
        return next(self.batches, None)


def without_batch_norms(model):
    """The model as ONNX Runtime's basic optimizations leave it, which its quantizer expects; standard operators alone."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "basic.onnx"
        options = ort.SessionOptions()
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.optimized_model_filepath = str(path)
        options.log_severity_level = 3
        ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        return onnx.load(path)


def quantize(model, name, shape, activations):
    kind = {"u8": QuantType.QUInt8, "s8": QuantType.QInt8}[activations]
    with tempfile.TemporaryDirectory() as folder:
        before, after = Path(folder) / "float.onnx", Path(folder) / "quantized.onnx"
        onnx.save(without_batch_norms(model), before)
        quantize_static(
            before,
            after,
            Reader(name, shape),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=kind,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.MinMax,
        )
        model = onnx.load(after)
    del model.metadata_props[:], model.graph.value_info[:]
    onnx.checker.check_model(model, full_check=True)
    return model


def with_quantized_outputs(model):
    """The same model, every result of a QuantizeLinear being an output as well."""
    opened = onnx.ModelProto()
    opened.CopyFrom(model)
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True)
    types = {value.name: value for value in inferred.graph.value_info}
    for node in model.graph.node:
        if node.op_type == "QuantizeLinear":
            opened.graph.output.append(types[node.output[0]])
    return opened


def save(path, model=None, arrays=None):
    if model is not None:
        data = model.SerializeToString(deterministic=True)
        assert len(data) < LARGEST_GRAPH, f"{path.name} has {len(data)} bytes"
        path.write_bytes(data)
    else:
        np.savez_compressed(path, **arrays)
    print(f"{path.stat().st_size:8} {path.name}")


def make(build, kinds):
    model = build()
    name = model.graph.name
    shape = [dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim[1:]]
    x = sample(name, shape, BATCH, 0)
    plain, optimized = run(model, x, False)["output"], run(model, x, True)["output"]
    save(OUT / f"{name}.onnx", model)
    save(OUT / f"{name}.npz", arrays={"input": x, "output": plain, "output_optimized": optimized})
    for kind in kinds:
        quantized = quantize(model, name, shape, kind)
        opened = with_quantized_outputs(quantized)
        save(OUT / f"{name}.{kind}.onnx", quantized)
        save(OUT / f"{name}.{kind}.npz", arrays={"input": x, **run(opened, x, False)})
        save(OUT / f"{name}.{kind}.optimized.npz", arrays=run(opened, x, True))


def versions():
    flags = next((line for line in open("/proc/cpuinfo") if line.startswith("flags")), "").split()
    return {
        "onnx": onnx.__version__,
        "onnxruntime": ort.__version__,
        "numpy": np.__version__,
        "machine": platform.machine(),
        "vnni": any(flag in flags for flag in ["avx512_vnni", "avx_vnni"]),
    }


def main():
    wanted = sys.argv[1:]
    unknown = set(wanted) - {build.__name__ for build in GRAPHS}
    if unknown:
        sys.exit(f"no such graph: {', '.join(sorted(unknown))}")
    for build, kinds in GRAPHS.items():
        if not wanted or build.__name__ in wanted:
            make(build, kinds)
    (OUT / "versions.json").write_text(json.dumps(versions(), indent=2) + "\n")
    total = sum(path.stat().st_size for path in OUT.iterdir() if path.is_file())
    print(f"{total:8} in all")


if __name__ == "__main__":
    main()
