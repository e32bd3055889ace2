#!/usr/bin/env python3
"""Trains the project's own models on Fashion-MNIST and writes them, with their data, next to this file.

    train.py                        everything: the data files, both models
    train.py data                   the calibration and test data alone
    train.py resnet --epochs 30     one model, longer

Needs `pip install torch onnx onnxruntime numpy` and `apt-get install dataset-fashion-mnist`.

It exports the network of the last epoch; the test set is not used to select one. The files keep the BatchNormalization nodes,
because folding them is the compiler's work. A run is reproducible for a seed, a version of torch and a number of threads.
"""

import argparse
import gzip
import json
import math
import os
import time
import warnings
from pathlib import Path

# Waiting threads do not spin, which is several times faster on a busy machine.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import numpy as np
import onnx
import onnxruntime
import torch
from torch import nn
from torch.nn import functional as F

DATA = Path("/usr/share/datasets/fashion-mnist")
OUT = Path(__file__).resolve().parent
MEAN, STD = 0.2860, 0.3530
CLASSES = 10
CALIBRATION_IMAGES, TEST_IMAGES = 512, 2000
OPSET = 17


# ---- data ----------------------------------------------------------------------------------------------


def read_idx(path):
    """An array of bytes in the format of MNIST: two zeros, a type (8 = u8), the rank, then the shape in big-endian."""
    raw = gzip.decompress(path.read_bytes())
    if raw[:3] != b"\0\0\x08":
        raise ValueError(f"{path}: not an idx file of bytes")
    shape = np.frombuffer(raw, ">u4", raw[3], 4)
    return np.frombuffer(raw, np.uint8, offset=4 + 4 * raw[3]).reshape(shape)


def load(folder, split):
    """u8 images [n, 28, 28] and int64 labels of `train` or `t10k`."""
    images = read_idx(folder / f"{split}-images-idx3-ubyte.gz")
    return images, read_idx(folder / f"{split}-labels-idx1-ubyte.gz").astype(np.int64)


def normalize(images):
    """u8 [n, 28, 28] to what the models take: f32 [n, 1, 28, 28]. `fashion.toml` says the same."""
    return ((torch.from_numpy(images.astype(np.float32)) / 255 - MEAN) / STD).unsqueeze(1)


def balanced_draw(labels, count, rng):
    """Indices of `count` items, as many of each class as of any other give or take one, in random order."""
    by_class = [rng.permutation(np.flatnonzero(labels == c)) for c in range(CLASSES)]
    rounds = math.ceil(count / CLASSES)
    interleaved = np.stack([items[:rounds] for items in by_class], axis=1).reshape(-1)
    return rng.permutation(interleaved[:count])


def write_data(folder, out, seed):
    """Calibration images come from the training set, so nothing that is measured on the test set has seen it."""
    images, labels = load(folder, "train")
    draw = balanced_draw(labels, CALIBRATION_IMAGES, np.random.default_rng(seed))
    np.savez_compressed(out / "fashion_calibration.npz", images=images[draw, :, :, None], labels=labels[draw])
    images, labels = load(folder, "t10k")
    np.savez_compressed(out / "fashion_test.npz", images=images[:TEST_IMAGES, :, :, None], labels=labels[:TEST_IMAGES])


def augment(images):
    """Each image mirrored with probability 1/2 and shifted by up to two pixels both ways, the border as background."""
    n, _, height, width = images.shape
    flip = torch.rand(n, 1, 1, 1) < 0.5
    images = torch.where(flip, images.flip(3), images)
    padded = F.pad(images, (2, 2, 2, 2), value=-MEAN / STD)
    rows = torch.randint(0, 5, (n, 1)) + torch.arange(height)
    columns = torch.randint(0, 5, (n, 1)) + torch.arange(width)
    return padded[torch.arange(n)[:, None, None], 0, rows[:, :, None], columns[:, None, :]].unsqueeze(1)


# ---- networks ------------------------------------------------------------------------------------------
# Modules are nested and named as in torchvision, so the exported node names are those of common model files.


class BasicBlock(nn.Module):
    """Conv-BN-ReLU, Conv-BN, plus the input (through a strided 1x1 convolution where the shape changes), ReLU."""

    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.downsample = None
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x):
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.relu(self.bn1(self.conv1(x)))
        return self.relu(self.bn2(self.conv2(x)) + shortcut)


class FashionResNet(nn.Module):
    """A small ResNet: a 3x3 stem, then stages of basic blocks at 28x28, 14x14 and 7x7."""

    def __init__(self, widths=(16, 32, 64), blocks=(1, 1, 2)):
        super().__init__()
        self.conv1 = nn.Conv2d(1, widths[0], 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        self.relu = nn.ReLU(inplace=True)
        sources = (widths[0], *widths[:2])
        stages = [self.stage(*numbers) for numbers in zip(sources, widths, blocks, (1, 2, 2))]
        self.layer1, self.layer2, self.layer3 = stages
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(widths[2], CLASSES)

    @staticmethod
    def stage(inputs, outputs, count, stride):
        rest = [BasicBlock(outputs, outputs, 1) for _ in range(count - 1)]
        return nn.Sequential(BasicBlock(inputs, outputs, stride), *rest)

    def forward(self, x):
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.fc(torch.flatten(self.avgpool(x), 1))


def conv_bn_relu6(inputs, outputs, kernel, stride=1, groups=1):
    conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.ReLU6(inplace=True))


class InvertedResidual(nn.Module):
    """1x1 expand, 3x3 depthwise, 1x1 project without activation; the input is added where shapes agree."""

    def __init__(self, inputs, outputs, stride, expand):
        super().__init__()
        hidden = inputs * expand
        self.use_res_connect = stride == 1 and inputs == outputs
        self.conv = nn.Sequential(
            *([conv_bn_relu6(inputs, hidden, 1)] if expand != 1 else []),
            conv_bn_relu6(hidden, hidden, 3, stride, groups=hidden),
            nn.Conv2d(hidden, outputs, 1, bias=False),
            nn.BatchNorm2d(outputs),
        )

    def forward(self, x):
        return x + self.conv(x) if self.use_res_connect else self.conv(x)


class FashionMobileNet(nn.Module):
    """A small MobileNetV2. `stages` holds rows of expansion, channels, number of blocks, stride of the first one."""

    def __init__(self, stem=16, stages=((1, 16, 1, 1), (4, 24, 2, 2), (4, 40, 3, 2), (4, 64, 1, 1)), head=192):
        super().__init__()
        layers, inputs = [conv_bn_relu6(1, stem, 3)], stem
        for expand, outputs, count, first_stride in stages:
            for i in range(count):
                layers.append(InvertedResidual(inputs, outputs, first_stride if i == 0 else 1, expand))
                inputs = outputs
        layers.append(conv_bn_relu6(inputs, head, 1))
        self.features = nn.Sequential(*layers)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(head, CLASSES)

    def forward(self, x):
        return self.classifier(torch.flatten(self.avgpool(self.features(x)), 1))


def initialize(model):
    """He's initialization; the last BatchNormalization of a residual branch starts at zero gain."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, BasicBlock):
            nn.init.zeros_(module.bn2.weight)


def count_macs(model):
    """Multiply-accumulates of the convolutions and the matrix products for one image."""
    total, hooks = 0, []

    def hook(module, _, output):
        nonlocal total
        total += module.weight.numel() * (output[0, 0].numel() if isinstance(module, nn.Conv2d) else 1)

    for module in model.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            hooks.append(module.register_forward_hook(hook))
    model.eval()
    with torch.no_grad():
        model(torch.zeros(1, 1, 28, 28))
    for handle in hooks:
        handle.remove()
    return total


# ---- training ------------------------------------------------------------------------------------------


def parameter_groups(model, weight_decay):
    """Weight decay for the matrices and kernels alone, not for biases, gains or depthwise kernels."""
    decayed, others = [], []
    for module in model.modules():
        depthwise = isinstance(module, nn.Conv2d) and module.groups > 1
        for parameter in module.parameters(recurse=False):
            (decayed if parameter.ndim > 1 and not depthwise else others).append(parameter)
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]


def train(model, images, labels, epochs, args):
    """SGD with Nesterov momentum; the learning rate rises over the first tenth, then falls along a cosine."""
    optimizer = torch.optim.SGD(parameter_groups(model, args.weight_decay), lr=0.0, momentum=0.9, nesterov=True)
    steps = len(images) // args.batch
    total = epochs * steps
    warmup = total / 10
    step = 0
    for epoch in range(epochs):
        start, loss_sum = time.perf_counter(), 0.0
        model.train()
        order = torch.randperm(len(images))
        for i in range(steps):
            picked = order[i * args.batch : (i + 1) * args.batch]
            rise = step / warmup
            rate = args.lr * (rise if rise < 1 else 0.5 + 0.5 * math.cos(math.pi * (step - warmup) / (total - warmup)))
            for group in optimizer.param_groups:
                group["lr"] = rate
            batch = augment(images[picked]).contiguous(memory_format=torch.channels_last)
            with torch.autocast("cpu", torch.bfloat16, enabled=args.bf16):
                logits = model(batch)
            loss = F.cross_entropy(logits.float(), labels[picked], label_smoothing=args.label_smoothing)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            loss_sum += loss.item()
            step += 1
        seconds = time.perf_counter() - start
        print(f"  epoch {epoch + 1:2}/{epochs}: loss {loss_sum / steps:.4f}, {seconds:.0f} s", flush=True)
    model.eval()


def export(model, path):
    """Writes the network as a training framework leaves it: BatchNormalization unfolded, module paths as node names."""
    model = model.to(memory_format=torch.contiguous_format).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            model,
            (torch.zeros(1, 1, 28, 28),),
            str(path),
            dynamo=False,
            opset_version=OPSET,
            training=torch.onnx.TrainingMode.PRESERVE,  # EVAL would fold BatchNormalization into the convolutions
            do_constant_folding=False,
            input_names=["input"],
            output_names=["logits"],
            dynamic_axes={"input": {0: "N"}, "logits": {0: "N"}},
        )
    onnx.checker.check_model(onnx.load(path), full_check=True)


def verify(model, path, images, labels):
    """Compares the file in ONNX Runtime with the network in torch; gives the accuracy of the file."""
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    difference, right = 0.0, 0
    for batch, target in zip(images.split(500), labels.split(500)):
        with torch.no_grad():
            expected = model(batch).numpy()
        logits = session.run(["logits"], {"input": batch.numpy()})[0]
        difference = max(difference, float(np.abs(logits - expected).max()))
        right += int((logits.argmax(1) == target.numpy()).sum())
    if not difference < 1e-4:
        raise RuntimeError(f"{path}: differs from torch by {difference}")
    return {"test_accuracy": right / len(labels), "max_abs_difference": difference}


# ---- command line --------------------------------------------------------------------------------------

# The network, its file, and its default number of epochs.
MODELS = {
    "resnet": (FashionResNet, "fashion_resnet.onnx", 24),
    "mobilenet": (FashionMobileNet, "fashion_mobilenet.onnx", 12),
}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="*", choices=["data", *MODELS], metavar="data|resnet|mobilenet", help="default: all")
    parser.add_argument("--data", type=Path, default=DATA, help=f"folder of the idx files (default: {DATA})")
    parser.add_argument("--out", type=Path, default=OUT, help="folder to write to (default: that of this script)")
    parser.add_argument("--epochs", type=int, help="default: resnet 24, mobilenet 12")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--lr", type=float, default=0.1, help="the highest learning rate")
    parser.add_argument("--weight-decay", type=float, default=5e-4)
    parser.add_argument("--label-smoothing", type=float, default=0.05)
    parser.add_argument("--bf16", action="store_true", help="train in bfloat16 where torch's autocast allows it")
    parser.add_argument("--images", type=int, help="the number of training images, for a quick try")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    what = args.what or ["data", *MODELS]
    torch.set_num_threads(args.threads)
    args.out.mkdir(parents=True, exist_ok=True)
    if "data" in what:
        write_data(args.data, args.out, args.seed)
    for key in what:
        if key not in MODELS:
            continue
        torch.manual_seed(args.seed)
        network, file, epochs = MODELS[key]
        model = network()
        initialize(model)
        figures = {"parameters": sum(p.numel() for p in model.parameters()), "macs": count_macs(model)}
        print(f"{key}: {figures}", flush=True)
        model = model.to(memory_format=torch.channels_last)
        images, labels = load(args.data, "train")
        images, labels = normalize(images[: args.images]), torch.from_numpy(labels[: args.images])
        train(model, images, labels, args.epochs or epochs, args)
        export(model, args.out / file)
        images, labels = load(args.data, "t10k")
        figures |= verify(model, args.out / file, normalize(images), torch.from_numpy(labels))
        figures["bytes"] = (args.out / file).stat().st_size
        print(json.dumps({"model": file} | figures), flush=True)


if __name__ == "__main__":
    main()
