"""The columns that name a setting, and how methods, datasets and networks are written and ordered for readers."""

SETTING = ["dataset", "network", "regime"]
METHODS = {  # name -> label, in the order of tables and legends
    "endpoints": "Endpoints",
    "linear_unaligned": "Line, unaligned",
    "linear_aligned": "Line, aligned",
    "unaligned": "Curve, unaligned",
    "pam_unaligned": "PAM curve, from unaligned",
    "pam_aligned": "PAM curve, from aligned",
    "aligned": "Curve, aligned",
}
NAMES = {"cifar10": "CIFAR-10", "cifar100": "CIFAR-100", "tinyimagenet": "Tiny ImageNet"}
NAMES |= {"tinyten": "TinyTen", "resnet32": "ResNet32", "googlenet": "GoogLeNet", "vit": "ViT", "gpt": "GPT"}
NAMES |= {"mlp": "MLP", "stdlib": "Python's standard library"}


def rank(method: str) -> tuple[int, str]:
    """The sort key of a method in tables and legends: the order of METHODS, then other methods alphabetically.

    Other straight lines follow the aligned one.
    """
    listed = list(METHODS)
    if method not in METHODS and method.startswith("linear_"):
        return listed.index("linear_aligned"), method
    return (listed.index(method) if method in METHODS else len(METHODS), method)


def label(word: str) -> str:
    """The name of a method, dataset or network as readers see it; a name without a label loses its underscores."""
    if word not in METHODS and word.startswith("linear_"):
        return f"Line, {alignment_label(word.removeprefix('linear_'))}"
    return (METHODS | NAMES).get(word, alignment_label(word))


def alignment_label(alignment: str) -> str:
    """The name of an alignment as readers see it; a method of the same name has a label of its own."""
    return alignment.replace("_", " ")
