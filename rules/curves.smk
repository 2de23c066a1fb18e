"""Jobs on a pair of endpoints: alignment, signatures, curves, and what is measured on them."""


use rule job as align with:
    """The permutation of a pair's second network that aligns it with the first."""
    input:
        unpack(inputs("align")),
    output:
        permutation="results/alignments/{dataset}/{network}/{regime}/{pair}/{alignment}.safetensors",
        moved="results/alignments/{dataset}/{network}/{regime}/{pair}/{alignment}.moved.csv",
    log:
        "logs/alignments/{dataset}/{network}/{regime}/{pair}/{alignment}.log",
    resources:
        **on_gpu(minutes=60),
    message:
        "Align %s by {wildcards.alignment}" % PAIR


use rule job as signature with:
    """The correlation of the units of a pair, before and after alignment."""
    input:
        unpack(inputs("signature")),
    output:
        signature="results/signatures/{dataset}/{network}/{regime}/{pair}/{alignment}.csv",
    log:
        "logs/signatures/{dataset}/{network}/{regime}/{pair}/{alignment}.log",
    resources:
        **on_gpu(minutes=60),
    message:
        "Correlate the units of %s" % ALIGNED


use rule job as merge with:
    """The mean of a pair, as it is and repaired, and the barrier between both networks."""
    input:
        unpack(inputs("merge")),
    output:
        models="results/merges/{dataset}/{network}/{regime}/{pair}/{alignment}/{merge}.csv",
        barrier="results/merges/{dataset}/{network}/{regime}/{pair}/{alignment}/{merge}.barrier.csv",
        layers="results/merges/{dataset}/{network}/{regime}/{pair}/{alignment}/{merge}.layers.csv",
    log:
        "logs/merges/{dataset}/{network}/{regime}/{pair}/{alignment}/{merge}.log",
    resources:
        **on_gpu(minutes=360),
    message:
        "Merge %s ({wildcards.merge})" % ALIGNED


use rule job as train_curve with:
    """The bends of a curve between a pair, and the history of their training."""
    input:
        unpack(inputs("train_curve")),
    output:
        bends="results/curves/{dataset}/{network}/{regime}/{pair}/{alignment}/{curve}/{curve_seed}.safetensors",
        history="results/curves/{dataset}/{network}/{regime}/{pair}/{alignment}/{curve}/{curve_seed}.history.csv",
    log:
        "logs/curves/{dataset}/{network}/{regime}/{pair}/{alignment}/{curve}/{curve_seed}.log",
    threads: processes("train_curve")
    resources:
        **training("train_curve", minutes=720),
    message:
        "Train %s" % CURVE


use rule job as evaluate with:
    """What the objective measures along a curve, on clean and on attacked test data."""
    input:
        unpack(inputs("evaluate")),
    output:
        points="results/evaluations/{dataset}/{network}/{regime}/{pair}/{alignment}/{curve}/{curve_seed}/{evaluation}.csv",
    log:
        "logs/evaluations/{dataset}/{network}/{regime}/{pair}/{alignment}/{curve}/{curve_seed}/{evaluation}.log",
    resources:
        **on_gpu(minutes=360),
    message:
        "Evaluate %s (evaluation {wildcards.evaluation})" % CURVE


use rule job as plane with:
    """What the objective measures on a plane through a pair, and the coordinates of the networks on it."""
    input:
        unpack(inputs("plane")),
    output:
        grid="results/planes/{dataset}/{network}/{regime}/{pair}/{alignment}/{through}/{plane}.csv",
        marks="results/planes/{dataset}/{network}/{regime}/{pair}/{alignment}/{through}/{plane}.marks.csv",
    log:
        "logs/planes/{dataset}/{network}/{regime}/{pair}/{alignment}/{through}/{plane}.log",
    resources:
        **on_gpu(minutes=360),
    message:
        "Evaluate the plane {wildcards.plane} ({wildcards.through}) of %s" % ALIGNED


use rule job as midpoint with:
    """The correlation of the units of a curve's midpoint with those of both ends."""
    input:
        unpack(inputs("midpoint")),
    output:
        midpoint="results/midpoints/{dataset}/{network}/{regime}/{pair}/{alignment}/{curve}/{curve_seed}/{evaluation}.csv",
    log:
        "logs/midpoints/{dataset}/{network}/{regime}/{pair}/{alignment}/{curve}/{curve_seed}/{evaluation}.log",
    resources:
        **on_gpu(minutes=60),
    message:
        "Correlate the ends with the midpoint of %s (evaluation {wildcards.evaluation})" % CURVE


use rule job as bound with:
    """An upper bound on the loss along the straight line between a pair, in total and by layer."""
    input:
        unpack(inputs("bound")),
    output:
        bound="results/bounds/{dataset}/{network}/{regime}/{pair}/{alignment}.csv",
        layers="results/bounds/{dataset}/{network}/{regime}/{pair}/{alignment}.layers.csv",
    log:
        "logs/bounds/{dataset}/{network}/{regime}/{pair}/{alignment}.log",
    resources:
        **on_gpu(minutes=60),
    message:
        "Bound the loss on the line between %s" % ALIGNED
