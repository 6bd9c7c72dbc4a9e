"""Compare what a GPU that is not there computes with the CPU; run as a script.

Each check is a function of a device, whose results are compared. Faults are functions
that must raise on the device and not on the CPU.
"""

import json
import os
import runpy
import sys
import tempfile
import traceback
from dataclasses import replace
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
import guard  # noqa: E402

if __name__ == "__main__":
    guard.load_guard(sys.argv[1])

import harness  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402

torch.Generator = harness.FakeGenerator

from torch import nn  # noqa: E402

from brainfeat.finetuning.fitting import finetune as fine_tune  # noqa: E402
from brainfeat.finetuning.fitting import pool_features  # noqa: E402
from brainfeat.finetuning.network import FrozenTrunk  # noqa: E402
from brainfeat.finetuning.plan import FinetuningPlan  # noqa: E402
from brainfeat.finetuning.targets import NumberTargets  # noqa: E402
from brainfeat.finetuning.training import TrainingData  # noqa: E402
from brainfeat.models.decoder import DecoderConfig, SegmentationDecoder  # noqa: E402
from brainfeat.models.encoder import SlabEncoder  # noqa: E402
from brainfeat.models.pooling import (  # noqa: E402
    pool_regions,
    pool_tissues,
    pool_tokens,
    pool_volumes,
)
from brainfeat.preprocessing.preprocessor import Preprocessor  # noqa: E402
from brainfeat.pretraining.self_distillation import SelfDistillation  # noqa: E402
from brainfeat.pretraining.source import seeded_generator  # noqa: E402
from brainfeat.pretraining.trainer import Trainer, train  # noqa: E402
from brainfeat.pretraining.views import DrawnViews  # noqa: E402
from brainfeat.pretraining.warm_start import Start  # noqa: E402
from brainfeat.segmentation.inputs import SegmentationSpace  # noqa: E402
from brainfeat.segmentation.network import SegmentationNetwork  # noqa: E402
from brainfeat.segmentation.training import dice_ce_loss  # noqa: E402
from brainfeat.simulation.bases import load_base  # noqa: E402
from brainfeat.simulation.training import draw_subjects, encoder_lattice  # noqa: E402
from brainfeat.slabs.grid import SlabGrid  # noqa: E402

ROOM = runpy.run_path(str(HERE.parent / "conftest.py"))
CONFIG, SOURCE = ROOM["SMALL_CONFIG"], ROOM["RandomSource"]()
ENCODER = replace(CONFIG.encoder, drop_path=0.0)
OBJECTIVES = ("dino", "ibot", "koleo", "infonce", "anatomy")


def make_encoder(device, **changes):
    torch.manual_seed(0)
    encoder = SlabEncoder(replace(ENCODER, **changes))
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape))
    return encoder.to(device)


def encode(device, **changes):
    """Encode and differentiate; some patches are background, one modality absent."""
    generator = torch.Generator().manual_seed(1)
    encoder = make_encoder(device, **changes)
    slabs = torch.randn(2, 3, 4, 16, 12, generator=generator)
    fractions = torch.rand(2, 3, 4, 3, generator=generator)
    present = torch.tensor([[True, True], [False, True]])
    output = encoder(
        slabs.to(device),
        present=present.to(device),
        masks=(fractions > 0.8).to(device),
        positions=torch.rand(2, 3, generator=generator).to(device),
        foreground=(fractions > 0.4).to(device),
    )
    (output.patch_tokens.square().mean() + output.cls_token.square().mean()).backward()
    gradients = [p.grad for p in encoder.parameters() if p.grad is not None]
    return [output.patch_tokens, output.cls_token, *gradients]


def pool(device):
    generator = torch.Generator().manual_seed(1)
    encoder = make_encoder(device)
    slabs = torch.randn(2, 3, 4, 16, 12, generator=generator).to(device)
    output = encoder(slabs)
    fractions = torch.rand(2, 3, 4, 3, generator=generator)
    weight, bias = torch.randn(5, 24, generator=generator), torch.ones(5)
    regions = torch.rand(6, 3, 4, 3, generator=generator)
    pooled = [pool_tokens(output, fractions, m) for m in ("mean", "cls", "cls+mean")]
    pooled.append(pool_tissues(output, fractions, weight, bias, 3))
    pooled.append(pool_volumes(output, fractions, weight, bias))
    pooled.append(pool_regions(output, regions, (fractions > 0.1).to(device)))
    return pooled


def draw_views(device, config=CONFIG):
    subjects = SOURCE.draw(0, 4, seed=1)
    drawn = DrawnViews.draw(
        config.views, config.encoder, subjects, step=0, generator=seeded_generator(2)
    )
    return drawn.apply(subjects.to(device), config.encoder)


def cut_views(device, background="kept"):
    encoder = replace(CONFIG.encoder, background=background)
    views = draw_views(device, replace(CONFIG, encoder=encoder))
    groups = views.global_views, views.local_views
    return [v for group in groups for v in vars(group).values() if v is not None]


def learn(device, objective, **changes):
    """Compute one objective, and its gradients."""
    weights = {f"{name}_weight": float(name == objective) for name in OBJECTIVES}
    config = replace(CONFIG, encoder=ENCODER, **weights | changes)
    torch.manual_seed(0)
    model = SelfDistillation(config, 3).to(device)
    terms, *_ = model(draw_views(device, config), teacher_temperature=0.2)
    terms.total.backward()
    gradients = [p.grad for p in model.student.parameters() if p.grad is not None]
    return [torch.stack(terms), *gradients]


class PairedNoise(ROOM["RandomSource"]):
    def draw_pairs(self, step, n_subjects, **options):
        clean = self.draw(step, n_subjects, **options)
        noise = torch.randn(
            n_subjects, 2, 2, *self.shape, generator=seeded_generator(3)
        )
        return replace(
            clean,
            volumes=clean.volumes + 0.3 * noise,
            present=clean.present.expand(-1, 2, -1),
            foreground=clean.foreground.expand(-1, 2, -1, -1, -1),
            reference=replace(clean, targets=None),
        )


def run(device, source=SOURCE, folder=None, **changes):
    """Train a few steps; return losses and weights."""
    config = replace(CONFIG, n_steps=2, log_every=1, **changes)
    with tempfile.TemporaryDirectory() as name:
        trainer = Trainer(source, config, Path(folder or name), device=device)
        trainer.prepare(Start(resumes=False))
        losses = [list(step.measures.values()) for step in trainer.steps()]
    weights = trainer.model.teacher.state_dict().values()
    numbers = [[v or 0.0 for v in row[:12]] for row in losses]
    return [torch.tensor(numbers)[:, :10], *weights]


def agree(device):
    views = replace(CONFIG.views, global_boxes="shared", n_local=0)
    weights = {f"{name}_weight": 0.0 for name in OBJECTIVES} | {"anatomy_weight": 1.0}
    weights |= {"agreement_weight": 1.0, "consistency_weight": 0.5}
    return run(
        device,
        PairedNoise(),
        views=views,
        agreement_teacher="moving_average",
        anatomy_whole_weight=0.2,
        **weights,
    )


def resume(device):
    """Train in two parts; the second begins with the state of the first."""
    with tempfile.TemporaryDirectory() as folder:
        options = {"output": folder, "device": str(device), "source": SOURCE}
        train(config=replace(CONFIG, n_steps=1), **options)
        checkpoint = train(config=replace(CONFIG, n_steps=2), resume=True, **options)
    return [*checkpoint.state.values()]


def decode(device):
    config = DecoderConfig(
        n_classes=3, n_modalities=2, embed_dim=8, n_depths=2, width=4
    )
    torch.manual_seed(0)
    decoder = SegmentationDecoder(config).to(device)
    generator = torch.Generator().manual_seed(1)
    voxels = torch.randn(2, 2, 8, 12, 16, generator=generator).to(device)
    foreground = torch.rand(2, 1, 4, 6, 8, generator=generator).to(device)
    tokens = torch.randn(2, 2, 2, 3, 4, 8, generator=generator).to(device)
    prior = torch.rand(1, 3, 4, 6, 8, generator=generator).log().to(device)
    present = torch.tensor([[True, False], [True, True]]).to(device)
    logits = decoder(
        voxels, foreground, [*tokens], prior.expand(2, -1, -1, -1, -1), present=present
    )
    labels = torch.randint(3, (2, 1, 8, 12, 16), generator=generator).to(device)
    loss = dice_ce_loss(logits, labels)
    loss.backward()
    return [logits, loss, *(p.grad for p in decoder.parameters())]


def predict(device):
    """Segment a volume, with the encoder on the device."""
    shape = (16, 24, 8)
    network = SegmentationNetwork(
        encoder=make_encoder(device),
        decoder=SegmentationDecoder(
            DecoderConfig(
                n_classes=3, n_modalities=1, embed_dim=24, n_depths=2, width=4
            )
        ),
        prior=torch.full((3, 8, 12, 4), 1 / 3),
        space=SegmentationSpace(
            preprocessor=Preprocessor(shape=shape, spacing=2.0),
            slab_grid=SlabGrid(thickness=2),
            encoder_modalities=ENCODER.modalities,
            modalities=("T1w",),
            allow_missing=False,
        ),
        device=device,
    )
    network.encoder.eval()
    generator = torch.Generator().manual_seed(1)
    coarse = torch.randn(1, 3, *shape, generator=generator).to(device)
    fine = torch.randn(1, 1, 32, 48, 16, generator=generator).to(device)
    present = torch.tensor([[True, False]]).to(device)
    with torch.no_grad():
        return [*network.decode(coarse, fine, present, present[:, :1])]


def finetune(device):
    """Adapt the last block and an attention head, and score a subject."""
    encoder = make_encoder(device, background="skipped").requires_grad_(False)
    trunk, targets = FrozenTrunk(encoder, 1, device), NumberTargets(np.arange(2.0))
    generator = torch.Generator().manual_seed(1)
    views = []
    for _ in range(2):
        slabs = torch.randn(1, 3, 4, 16, 12, generator=generator)
        fractions = torch.rand(1, 3, 4, 3, generator=generator)
        views.append([trunk.encode(slabs, torch.ones(1, 2) > 0, fractions)])
    features = pool_features(encoder, views, trunk)
    data = TrainingData(views, targets, np.arange(2), features)
    plan = FinetuningPlan(
        adapt="lora",
        pooling="attention",
        rank=2,
        n_blocks=1,
        n_steps=2,
        learning_rate=1e-3,
        batch_size=2,
        n_views=0,
        n_folds=0,
        seed=0,
    )
    fitted = fine_tune(encoder, data, plan, device)
    return [*fitted.updates.values(), *fitted.head.parameters()]


def simulate(device):
    """Simulate on the device; noise comes from a generator that is there."""
    base = load_base(spacing=8.0).to(device)
    batch = draw_subjects(
        base,
        2,
        generator=torch.Generator().manual_seed(1),
        modalities=("T1w", "T2w"),
        lattice=encoder_lattice((12, 14, 10), 14.0),
    )
    return [batch.volumes, batch.truth, batch.brain, batch.foreground]


CHECKS = {
    "encoder-dense": encode,
    "encoder-rotary": lambda d: encode(d, positions="rotary", embed_dim=24),
    "encoder-packed": lambda d: encode(d, background="skipped"),
    "encoder-packed-rotary": lambda d: encode(
        d, background="skipped", positions="rotary", slab_positions=5
    ),
    "encoder-stem": lambda d: encode(d, stem="hierarchical"),
    "poolings": pool,
    "views": cut_views,
    "views-skipped": lambda d: cut_views(d, "skipped"),
    **{f"objective-{n}": lambda d, n=n: learn(d, n) for n in OBJECTIVES},
    "objective-sinkhorn": lambda d: learn(d, "dino", centring="sinkhorn"),
    "agreement": agree,
    "step-float32": run,
    "step-bfloat16": lambda d: run(d, precision="bfloat16"),
    "step-checkpointed": lambda d: run(d, activation_checkpointing=True),
    "step-skipped": lambda d: run(
        d, encoder=replace(CONFIG.encoder, background="skipped")
    ),
    "resume": resume,
    "decoder": decode,
    "prediction": predict,
    "finetuning-bfloat16": finetune,  # Adam enlarges the rounding of small gradients
    "simulation": simulate,
}


class Forgetful(nn.Module):
    """A module whose table is not a buffer."""

    def __init__(self):
        super().__init__()
        self.table = torch.ones(3)
        self.weight = nn.Parameter(torch.ones(3))

    def forward(self, x):
        return x * self.weight + self.table


def on(device):
    return torch.randn(4, 3, generator=torch.Generator().manual_seed(0)).to(device)


FAULTS = {
    "index on the CPU": lambda d: on(d).gather(0, torch.zeros(1, 3, dtype=torch.long)),
    "rows by an index on the CPU": lambda d: on(d).index_select(
        0, torch.tensor([1, 2])
    ),
    "generator of the CPU": lambda d: torch.rand(
        3, generator=torch.Generator(), device=d
    ),
    "unregistered buffer": lambda d: Forgetful().to(d)(on(d)),
    "numpy of a tensor": lambda d: on(d).numpy(),
    "mask on the CPU": lambda d: on(d).masked_fill(torch.ones(4, 3) > 0, 0.0),
    "mask of the encoder on the CPU": lambda d: make_encoder(d)(
        torch.zeros(1, 2, 4, 16, 12, device=d), masks=torch.ones(1, 2, 4, 3) > 0
    ),
    "joined with the CPU": lambda d: torch.cat([on(d), torch.ones(1, 3)]),
}


def to_cpu(values):
    return [value.detach().cpu() for value in values]


def compare(name, check, device):
    """Return what differs between the device and the CPU, or went wrong."""
    # GPU and CPU differ in which operators compute in bfloat16.
    rtol, atol = (0.03, 0.02) if "bfloat16" in name else (2e-3, 2e-4)
    try:
        expected = to_cpu(check(torch.device("cpu")))
        found = to_cpu(check(device))
        if len(found) != len(expected):
            return f"{len(found)} results, {len(expected)} on the CPU"
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one, other, rtol=rtol, atol=atol)
    except Exception:
        return traceback.format_exc(limit=-8)
    return None


def catch(fault, device):
    """Return what is wrong with a fault: it must raise on the device alone."""
    try:
        fault(torch.device("cpu"))
        fault(device)
    except RuntimeError:
        return None
    except Exception:
        return traceback.format_exc(limit=-5)
    return "no error"


def main(output):
    torch.set_num_threads(1)
    wanted = os.environ.get("CHECKS", "")
    with harness.fake_gpu() as device:
        results = {n: compare(n, c, device) for n, c in CHECKS.items() if wanted in n}
        results |= {n: catch(f, device) for n, f in FAULTS.items() if wanted in n}
    Path(output).write_text(json.dumps(results))


if __name__ == "__main__":
    main(sys.argv[2])
    os._exit(0)  # autograd's threads of the device wait for its library
