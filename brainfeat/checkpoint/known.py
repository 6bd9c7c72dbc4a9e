"""The public encoders that are known: origin, licence, input and feature of each."""

__all__ = [
    "KNOWN_ENCODERS",
    "find_known",
    "first_of_layout",
    "identify",
    "suggest_known",
]

from collections.abc import Iterable, Mapping
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path

from brainfeat.checkpoint.known_encoder import KnownEncoder, Licence

_APACHE = Licence("Apache-2.0", is_free=True)
_MIT = Licence("MIT", is_free=True)
_BY_NC_ND = Licence(
    "CC BY-NC-ND 4.0",
    "no commercial use, no changes",
    "name the authors; changed (fine-tuned) weights must not be shared",
)
_BY_NC_SA = Licence(
    "CC BY-NC-SA 4.0",
    "no commercial use",
    "name the authors; changed (fine-tuned) weights only under the same licence",
)
_ACADEMIC = Licence("academic", "no commercial use", "read the licence on the page")
_META = Licence("DINOv3 License", "terms of Meta", "read the licence on the page")
_UNSTATED = Licence("not known", "read the page")

_BY_SLICE = "rigid to MNI152, 1 mm; three neighbouring axial slices in place of RGB"
_PHOTOGRAPHS = "It has seen photographs, no brains."

_BRAINFOUND = KnownEncoder(
    name="brainfound-tiny",
    title="brainfound-tiny",
    licence=_APACHE,
    page="bundled with brainfeat",
    network="slabs, 6 blocks of width 192, patches of 8 pixels, 3.0 M parameters",
    trained_on="simulated anatomies, no scan of a person",
    takes="T1w, T2w and FLAIR, any of them missing",
    recipe="brainfeat",
    prepared="rigid to MNI152, 2 mm, no skull strip",
    feature="mean of the tokens in the brain",
    poolings=("mean", "cls", "cls+mean", "anatomy", "anatomy_ml", "regions"),
    caveats=("It is not validated on patients.",),
)


def _dinov2(
    size: str, code: str, width: int, depth: int, millions: int
) -> KnownEncoder:
    return KnownEncoder(
        name=f"dinov2-{size}",
        title=f"DINOv2 {size}",
        layout="dinov2",
        hub=f"facebook/dinov2-{size}:model.safetensors",
        page=f"https://huggingface.co/facebook/dinov2-{size}",
        files=(f"dinov2_{code}14_pretrain.pth", f"dinov2_{code}14_reg4_pretrain.pth"),
        licence=_APACHE,
        network=f"2D ViT, {depth} blocks of width {width}, patches of 14 pixels, "
        f"{millions} M parameters",
        sizes={"embed_dim": width, "depth": depth, "patch_size": 14},
        trained_on="142 million photographs (LVD-142M)",
        takes="T1w or any other single contrast",
        recipe="dinov2",
        prepared=_BY_SLICE,
        feature="mean of the tokens in the brain",
        poolings=("mean", "cls", "cls+mean", "regions"),
        caveats=(_PHOTOGRAPHS,),
    )


def _dinov3(
    size: str, code: str, width: int, depth: int, millions: int
) -> KnownEncoder:
    repository = f"facebook/dinov3-{code}16-pretrain-lvd1689m"
    return KnownEncoder(
        name=f"dinov3-{size}",
        title=f"DINOv3 {size}",
        layout="dinov3",
        hub=f"{repository}:model.safetensors",
        is_gated=True,
        page=f"https://huggingface.co/{repository}",
        licence=_META,
        network=f"2D ViT with rotary positions, {depth} blocks of width {width}, "
        f"patches of 16 pixels, {millions} M parameters",
        sizes={"embed_dim": width, "depth": depth, "patch_size": 16},
        trained_on="1.7 billion photographs (LVD-1689M)",
        takes="T1w or any other single contrast",
        recipe="dinov3",
        prepared=_BY_SLICE,
        feature="mean of the tokens in the brain",
        poolings=("mean", "cls", "cls+mean", "regions"),
        caveats=(_PHOTOGRAPHS,),
    )


_BRAINIAC = KnownEncoder(
    name="brainiac",
    title="BrainIAC",
    layout="brainiac",
    page="https://github.com/AIM-KannLab/BrainIAC",
    copies=("nidl-neurospin/brainiac-vit-b", "eugenehp/brainiac:backbone.safetensors"),
    files=("BrainIAC.ckpt",),
    licence=_ACADEMIC,
    network="3D ViT-B, 12 blocks of width 768, patches of 16^3, 88 M parameters",
    sizes={"embed_dim": 768, "depth": 12},
    trained_on="structural brain MRI of several contrasts (SimCLR)",
    takes="T1w, T2w, FLAIR or T1w with contrast agent: one pass each, then the mean",
    recipe="brainiac",
    prepared="N4, rigid to a template, skull strip; whole field resized to 96^3; "
    "z-score of the nonzero voxels",
    feature="token 0, as the authors do; it is the patch in one corner of the volume",
    poolings=("mean", "regions"),
    reported="AUROC 0.728 and brain-age MAE 5.42 years in the paper of Neuro-JEPA",
    caveats=(
        "The network has no class token: the feature that the authors call CLS is that "
        "of the corner patch, which lies in the background. pooling='mean' uses all.",
        "Version 2, a ViT. Version 1 was a ResNet50, and is not read.",
    ),
)
_3DINO = KnownEncoder(
    name="3dino",
    title="3DINO",
    layout="3dino",
    hub="AICONSlab/3DINO-ViT:3dino_vit_weights.pth",
    is_gated=True,
    page="https://huggingface.co/AICONSlab/3DINO-ViT",
    files=("3dino_vit_weights.pth",),
    licence=_BY_NC_ND,
    network="3D ViT-L, 24 blocks of width 1024, patches of 16^3, 304 M parameters",
    sizes={"embed_dim": 1024, "depth": 24, "positions": 343},
    trained_on="about 100,000 volumes of MRI, CT and PET, of many organs (DINOv2)",
    takes="any single contrast; head or brain",
    recipe="3dino",
    prepared="RAS; percentiles 0.05 to 99.95 to [-1, 1]; crop to the foreground; "
    "resize to 112^3",
    feature="class token",
    poolings=("mean", "cls", "cls+mean", "regions"),
)
_MED3DINO = KnownEncoder(
    name="med3dino",
    title="Med3DINO (ISO)",
    layout="3dino",
    hub="maregu2023/Med3DINO:c96_iso_teacher_checkpoint.pth",
    page="https://huggingface.co/maregu2023/Med3DINO",
    files=(
        "c96_iso_teacher_checkpoint.pth",
        "c96_rel_teacher_checkpoint.pth",
        "c96_sa_teacher_checkpoint.pth",
    ),
    licence=_UNSTATED,
    network="3D ViT-L, 24 blocks of width 1024, patches of 16^3, 307 M parameters",
    sizes={"embed_dim": 1024, "depth": 24, "positions": 216},
    trained_on="62,638 volumes of CT, MRI and PET, of many organs (DINOv2)",
    takes="any single contrast",
    recipe="med3dino",
    prepared="as 3DINO, resized to 96^3",
    feature="class token",
    poolings=("mean", "cls", "cls+mean", "regions"),
    caveats=(
        "Its variants REL and SA are c96_rel_teacher_checkpoint.pth and "
        "c96_sa_teacher_checkpoint.pth in the same repository.",
    ),
)
_BM_MAE = KnownEncoder(
    name="bm-mae",
    title="BM-MAE",
    layout="bm-mae",
    hub="luklebigbosse/BM-MAE:bmmae.pth",
    page="https://huggingface.co/luklebigbosse/BM-MAE",
    files=("bmmae.pth", "bmmae_tcga.pth"),
    licence=_UNSTATED,
    network="3D ViT-B, 12 blocks of width 768, patches of 16^3, an embedding for each "
    "contrast",
    sizes={"embed_dim": 768, "depth": 12},
    trained_on="MRI of gliomas, four contrasts (masked autoencoder)",
    takes="any of T1w, T1w with contrast agent, T2w and FLAIR, in one pass",
    recipe="bm-mae",
    prepared="as in BraTS: skull strip, 128^3 at 1 mm; z-score of the nonzero voxels",
    feature="class token",
    poolings=("mean", "cls", "cls+mean", "regions"),
    caveats=("It has seen brains with tumours only.",),
)
_NEUROVFM = KnownEncoder(
    name="neurovfm",
    title="NeuroVFM",
    layout="neurovfm",
    hub="mlinslab/neurovfm-encoder",
    is_gated=True,
    page="https://huggingface.co/mlinslab/neurovfm-encoder",
    licence=_BY_NC_SA,
    network="3D ViT-B, 12 blocks of width 768, patches of 4x16x16",
    sizes={"embed_dim": 768, "depth": 12},
    trained_on="5.2 million clinical volumes of MRI and CT of one health system",
    takes="any single contrast; head, not stripped",
    recipe="neurovfm",
    prepared="RPI, 1x1x4 mm; percentiles 0.5 to 99.5 to [0, 1]; patches of background "
    "left out",
    feature="mean of the tokens",
    poolings=("mean", "regions"),
    reported="AUROC 0.741 and brain-age MAE 4.36 years in the paper of Neuro-JEPA",
    caveats=("The authors' own code needs CUDA; here it runs on a CPU as well.",),
)
_NEURO_JEPA = KnownEncoder(
    name="neuro-jepa",
    title="Neuro-JEPA",
    layout="neuro-jepa",
    hub="NYUMedML/Neuro-JEPA:model.safetensors",
    is_gated=True,
    page="https://huggingface.co/NYUMedML/Neuro-JEPA",
    licence=replace(
        _BY_NC_ND,
        terms=f"{_BY_NC_ND.terms}; academic research only, no clinical use; copies of "
        "the weights must not be passed on",
    ),
    network="3D ViT-B, 12 blocks of width 768, patches of 12^3, 16 experts in every "
    "other block",
    sizes={"embed_dim": 768, "depth": 12},
    trained_on="brain MRI (joint-embedding prediction)",
    takes="any single contrast",
    recipe="neuro-jepa",
    prepared="affine to MNI152, 1 mm, skull strip; percentiles 0.5 to 99.5 to [0, 1]; "
    "crop to the brain; 96x108x96",
    feature="mean of the tokens",
    poolings=("mean", "regions"),
    reported="AUROC 0.785 over public tasks and brain-age MAE 2.78 years in its paper, "
    "the best of 2026",
)
_NEURO_SIMCLR = KnownEncoder(
    name="neuro-simclr",
    title="3D-Neuro-SimCLR",
    layout="neuro-simclr",
    page="https://github.com/emilykaczmarek/3D-Neuro-SimCLR",
    licence=_MIT,
    network="3D ResNet-18, 512 features",
    trained_on="T1w of the brain (SimCLR)",
    takes="T1w",
    recipe="neuro-simclr",
    prepared="rigid to MNI152 2009c, 1 mm, skull strip; crop to 150x192x192; z-score "
    "in the brain",
    feature="average over the volume, 512 numbers",
    poolings=("mean",),
    reported="brain-age error 5.86 years in BrainFMBench, the best of the foundation "
    "models there",
)
_ANATCL = KnownEncoder(
    name="anatcl",
    title="AnatCL",
    layout="anatcl",
    page="https://github.com/EIDOSLAB/AnatCL",
    licence=_MIT,
    network="3D ResNet-18, 512 features",
    trained_on="grey-matter maps of T1w (contrastive, with anatomy and age)",
    takes="grey-matter maps of CAT12 (VBM), 121x128x121 voxels of 1.5 mm",
    recipe="anatcl",
    prepared="none: the maps are the input",
    feature="average over the volume, 512 numbers",
    poolings=("mean",),
    caveats=("It does not take scans: run CAT12 first, and give its maps.",),
)
_MRI_CORE = KnownEncoder(
    name="mri-core",
    title="MRI-CORE",
    layout="dinov2",
    page="https://arxiv.org/abs/2506.12186",
    files=("MRI_CORE_vitb.pth",),
    licence=_APACHE,
    network="2D ViT-B, 12 blocks of width 768, patches of 16 pixels, 86 M parameters",
    sizes={"embed_dim": 768, "depth": 12, "patch_size": 16},
    trained_on="6 million slices of 110,000 MRI volumes, 18 body parts (DINOv2)",
    takes="any single contrast",
    recipe="mri-core",
    prepared="each slice scaled to [0, 1], in three equal channels",
    feature="mean of the tokens in the brain",
    poolings=("mean", "cls", "cls+mean", "regions"),
    caveats=(
        "The authors' own loader drops LayerScale, the last norm and the positions, so "
        "that its features differ; here the network is the one that was trained.",
    ),
)

_ENCODERS = (
    _BRAINFOUND,
    _BRAINIAC,
    _3DINO,
    _MED3DINO,
    _BM_MAE,
    _NEUROVFM,
    _NEURO_JEPA,
    _NEURO_SIMCLR,
    _ANATCL,
    _MRI_CORE,
    _dinov2("small", "vits", 384, 12, 22),
    _dinov2("base", "vitb", 768, 12, 86),
    _dinov2("large", "vitl", 1024, 24, 304),
    _dinov2("giant", "vitg", 1536, 40, 1136),
    _dinov3("small", "vits", 384, 12, 22),
    _dinov3("base", "vitb", 768, 12, 86),
    _dinov3("large", "vitl", 1024, 24, 303),
)
KNOWN_ENCODERS: Mapping[str, KnownEncoder] = {known.name: known for known in _ENCODERS}
# Anybody may have trained such a network: sizes alone say nothing of the weights.
_COMMON_LAYOUTS = ("dinov2", "dinov3")


def find_known(name: str) -> KnownEncoder | None:
    """Return the encoder of a name in any case, None if there is none."""
    return KNOWN_ENCODERS.get(name.casefold())


def suggest_known(name: str) -> list[str]:
    """Return names that may be meant: those it begins, else those that look alike."""
    name = name.casefold()
    begun = [known for known in KNOWN_ENCODERS if name and known.startswith(name)]
    return begun or get_close_matches(name, KNOWN_ENCODERS, cutoff=0.7)


def first_of_layout(layout: str) -> KnownEncoder | None:
    """Return the encoder for which a layout was made, None if it is in wide use."""
    same = (known for known in _ENCODERS if known.layout == layout)
    return None if layout in _COMMON_LAYOUTS else next(same, None)


def identify(
    layout: str,
    sizes: Mapping[str, int],
    *,
    file: Path | None = None,
    sha256: str = "",
    repository: str = "",
) -> KnownEncoder | None:
    """Return the encoder whose weights a file seems to hold, None if it is unclear.

    The content tells first, then where the file is from, then its name, and at last
    the sizes of a network that nobody else trains.
    """
    same = [known for known in _ENCODERS if known.layout == layout]
    fitting = [known for known in same if _has_sizes(known, sizes)]
    name = file.name if file else ""
    return (
        _only(known for known in same if sha256 and sha256 in known.sha256.values())
        or _only(k for k in same if repository and _is_of(k, repository))
        or _only(known for known in fitting if name in known.files)
        or _only(known for known in fitting if layout not in _COMMON_LAYOUTS)
    )


def _only(candidates: Iterable[KnownEncoder]) -> KnownEncoder | None:
    found = list(candidates)
    return found[0] if len(found) == 1 else None


def _is_of(known: KnownEncoder, repository: str) -> bool:
    sources = (known.hub, *known.copies)
    return repository in {source.partition(":")[0] for source in sources}


def _has_sizes(known: KnownEncoder, sizes: Mapping[str, int]) -> bool:
    return all(sizes.get(name, size) == size for name, size in known.sizes.items())
