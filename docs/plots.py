"""Pictures of the gallery: the value and the gradient of each loss, computed by the loss itself.

``python docs/plots.py FOLDER`` draws all of them. The build of the site calls :func:`draw`.
"""

import sys
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from scipy import ndimage
from skimage import data, filters

import vis4d_jax_loss as vjl

STYLE = Path(__file__).parents[1] / "examples" / "plots.mplstyle"
GREY = "#8A8A8A"


def draw(folder: Path) -> None:
    """Draw every picture into a folder: ``<loss>.png``, and ``<loss>_small.png`` for the overview.

    The small picture is the first panel without text. Pictures newer than the code are not redrawn.
    """
    folder.mkdir(parents=True, exist_ok=True)
    sources = [Path(__file__), STYLE, *Path(vjl.__file__).parent.rglob("*.py")]
    changed = max(source.stat().st_mtime for source in sources)
    plt.style.use(STYLE)
    for loss in PICTURES:
        picture = folder / f"{loss.__name__}.png"
        if picture.exists() and picture.stat().st_mtime > changed:
            continue
        figure = plt.figure(figsize=(5.2, 4.6))
        loss(figure)
        figure.savefig(picture, dpi=200)
        for axes in figure.axes:  # text would be too small to read
            for text in [axes.get_legend(), *axes.texts]:
                if text is not None:
                    text.set_visible(False)
        panel = figure.axes[0].get_window_extent().transformed(figure.dpi_scale_trans.inverted())
        figure.savefig(folder / f"{loss.__name__}_small.png", dpi=120, bbox_inches=panel)
        plt.close(figure)


def l1_loss(figure: Figure) -> None:
    error = np.linspace(-3, 3, 601)
    value, slope = value_and_gradient(figure, "pred − target [units of pred]", "[units]")
    curve(value, slope, error, lambda d: vjl.l2_loss(d, 0.0), "l2_loss", color=GREY, linewidth=1)
    curve(value, slope, error, lambda d: vjl.l1_loss(d, 0.0), "l1_loss", color="C0")
    slope.plot(0, 0, "o", color="C0")
    slope.annotate("0 at an exact match", (0, 0), (0.4, -1.2), arrowprops=dict(arrowstyle="->"))
    value.set(ylim=(0, 4), title="The gradient does not grow with the error")
    value.legend()
    slope.set(ylim=(-2.6, 2.6))


def l2_loss(figure: Figure) -> None:
    error = np.linspace(-3, 3, 601)
    value, slope = value_and_gradient(
        figure, "pred − target [units of pred]", "[units²]", "[units]"
    )
    curve(value, slope, error, lambda d: vjl.l1_loss(d, 0.0), "l1_loss", color=GREY, linewidth=1)
    curve(value, slope, error, lambda d: vjl.l2_loss(d, 0.0), "l2_loss", color="C0")
    value.set(title="The gradient grows with the error")
    value.legend()


def smooth_l1_loss(figure: Figure) -> None:
    error = np.linspace(-3, 3, 601)
    value, slope = value_and_gradient(figure, "pred − target [units of pred]", "[units]")
    for beta in (0.25, 1.0, 2.0):
        label = f"beta = {beta:g}"
        curve(
            value, slope, error, lambda d, beta=beta: vjl.smooth_l1_loss(d, 0.0, beta=beta), label
        )
    value.set(title="Quadratic below beta, linear above")
    value.legend()


def rotation_loss(figure: Figure) -> None:
    target = jnp.radians(150.0)

    def of_angle(angle):
        pred = jnp.stack([30.0, jnp.sin(angle), jnp.cos(angle)])[None]
        return vjl.rotation_loss(pred, jnp.ones((1, 1)), target[None, None], 1, vjl.mean_loss)

    value, slope = value_and_gradient(
        figure, "predicted angle [degrees]", slope_unit="[per radian]"
    )
    degrees = np.linspace(-180, 180, 721)
    plain = dict(color=GREY, linewidth=1)
    for f, label, style in [
        (lambda a: vjl.smooth_l1_loss(a, target), "smooth_l1_loss of the angle", plain),
        (of_angle, "rotation_loss of sine and cosine", dict(color="C0")),
    ]:
        curve(value, slope, degrees, lambda x, f=f: f(x), label, scale=np.pi / 180, **style)
    for axes in (value, slope):
        axes.axvline(150, color="C1", linestyle=":")
    value.set(
        title="The loss is the same at −180° and at +180°",
        xlim=(-180, 180),
        xticks=range(-180, 181, 60),
    )
    value.set(ylim=(0, 8))
    value.legend(loc="upper left")
    slope.text(145, 0.6, "target 150°", color="C1", ha="right")


def cross_entropy(figure: Figure) -> None:
    margin = np.linspace(-8, 12, 401)
    value, slope = value_and_gradient(
        figure, "logit of the true class − logit of the others", "[nats]"
    )
    for num_classes in (2, 10, 100):

        def loss(z, num_classes=num_classes):
            logits = jnp.zeros(num_classes).at[0].set(z)
            return vjl.cross_entropy(logits, jnp.array(0))

        curve(value, slope, margin, loss, f"{num_classes} classes")
    value.set(title="Linear when wrong, close to 0 when right")
    value.legend()


def binary_cross_entropy(figure: Figure) -> None:
    logit = np.linspace(-6, 6, 401)
    value, slope = value_and_gradient(figure, "logit", "[nats]")
    for target in (1.0, 0.5, 0.0):

        def loss(z, target=target):
            return vjl.binary_cross_entropy(z, target)

        curve(value, slope, logit, loss, f"target {target:g}")
    value.set(title="The gradient is the probability − the target")
    value.legend()


def sigmoid_focal_loss(figure: Figure) -> None:
    logit = np.linspace(-6, 6, 401)
    value, slope = value_and_gradient(figure, "logit of a target 1", "[nats]")
    for gamma in (0, 1, 2, 5):

        def loss(z, gamma=gamma):
            return vjl.sigmoid_focal_loss(z, 1.0, alpha=None, gamma=gamma)

        curve(value, slope, logit, loss, f"gamma = {gamma}")
    value.set(title="What is right already counts little")
    value.legend()


def softmax_focal_loss(figure: Figure) -> None:
    margin = np.linspace(-6, 12, 401)
    value, slope = value_and_gradient(
        figure, "logit of the true class − logit of the nine others", "[nats]"
    )
    for gamma in (0, 1, 2, 5):

        def loss(z, gamma=gamma):
            logits = jnp.zeros(10).at[0].set(z)
            return vjl.softmax_focal_loss(logits, jnp.array(0), gamma=gamma)

        curve(value, slope, margin, loss, f"gamma = {gamma}")
    value.set(title="A larger gamma stops earlier")
    value.legend()


def heatmap_focal_loss(figure: Figure) -> None:
    logit = np.linspace(-6, 6, 401)
    value, slope = value_and_gradient(figure, "logit", "[nats]")
    for target in (1.0, 0.5, 0.25, 0.0):

        def loss(z, target=target):
            return vjl.heatmap_focal_loss(z, target)

        curve(value, slope, logit, loss, f"target {target:g}")
    value.set(title="Near a centre, a high probability costs less")
    value.legend()


def seg_cross_entropy_loss(figure: Figure) -> None:
    photo, labels = coins()
    margin = 20  # pixels of padding at the right and the bottom
    logits = np.pad(coin_logits(photo, blur=6.0), [(0, 0), (0, margin), (0, margin), (0, 0)])
    seg_loss = vjl.seg_cross_entropy_loss
    loss = seg_loss(logits, labels[None], vjl.identity_loss)[0]
    gradient = jax.grad(lambda z: seg_loss(z, labels[None], vjl.sum_loss))(logits)[0]

    figure.set_size_inches(5.2, 4.2)
    axes = figure.subplots(2, 2)
    ignored = plt.matplotlib.colors.ListedColormap(["#303030", "#56B4E9", "#E69F00"])
    image(axes[0, 0], np.where(labels == 255, 2, labels), "labels (orange: ignored)", cmap=ignored)
    image(axes[0, 1], photo, "photograph", cmap="gray")
    shown = image(axes[1, 0], loss, "loss of each pixel [nats]", vmax=1.6)
    figure.colorbar(shown, ax=axes[1, 0], location="bottom", shrink=0.9)
    length = jnp.linalg.norm(gradient, axis=-1)
    shown = image(axes[1, 1], length, "gradient length [nats per logit]", vmax=1.2)
    figure.colorbar(shown, ax=axes[1, 1], location="bottom", shrink=0.9)
    height, width = labels.shape
    for panel in axes.flat:  # one scale for all, so that the padding is visible
        panel.set(xlim=(0, width + margin), ylim=(height + margin, 0))
        panel.plot([0, width, width], [height, height, 0], color=GREY, linestyle=":")
    for panel, words in zip(
        axes[0], ("dotted: border of the labels", "outside: padding, no labels"), strict=True
    ):
        panel.text(2, height + margin / 2, words, va="center", fontsize=8)


def multi_level_seg_loss(figure: Figure) -> None:
    photo, labels = coins()
    weights = (0.25, 0.5, 1.0)
    names = ("level 0 (coarse)", "level 1", "level 2 (fine)")
    outputs = [coin_logits(photo, blur) for blur in (9.0, 6.0, 3.0)]
    levels = vjl.multi_level_seg_loss(
        outputs, labels[None], vjl.identity_loss, feature_idx=(0, 1, 2), weights=weights
    )
    figure.set_size_inches(5.2, 3.3)
    figure.suptitle(
        "Each level adds its weighted mean to the total", x=0.01, ha="left", fontsize=11
    )
    grid = figure.add_gridspec(2, 3, height_ratios=[1.6, 1])
    maps = [figure.add_subplot(grid[0, i]) for i in range(3)]
    bar = figure.add_subplot(grid[1, :])
    left = 0.0
    for i, (name, loss) in enumerate(levels.items()):
        shown = image(maps[i], loss[0] / weights[i], names[i], vmax=1.6)
        mean = float(vjl.mean_loss(loss))
        bar.barh(0, mean, left=left, color=f"C{i}", label=f"{name}, weight {weights[i]:g}")
        bar.text(left + mean / 2, 0, f"{mean:.2f}", ha="center", va="center", color="white")
        left += mean
    figure.colorbar(shown, ax=maps, label="loss [nats]", shrink=0.65, aspect=12)
    bar.set(xlabel="total loss: sum of the weighted means [nats]", yticks=[], ylim=(-0.5, 2.6))
    bar.legend(loc="upper left", fontsize=9, borderpad=0)
    bar.grid(False)


def dice_loss(figure: Figure) -> None:
    logit = np.linspace(-8, 8, 321)
    value, slope = value_and_gradient(figure, "logit of the pixels of an object")

    def dice(logits, labels):
        return vjl.dice_loss(logits[..., None], labels, smooth=0.0)

    def cross_entropy(logits, labels):
        logits = jnp.stack([jnp.zeros_like(logits), logits], -1)
        return vjl.cross_entropy(logits, labels, reducer=vjl.mean_loss)

    for name, loss, style in [
        ("cross-entropy", cross_entropy, dict(color=GREY, linewidth=1)),
        ("dice_loss", dice, dict(color="C0")),
    ]:
        for share, line in [(0.5, dict(linestyle="-")), (0.01, dict(linestyle="--", color="C1"))]:
            labels = (np.arange(1000) < share * 1000).astype(int)[None]

            def of_object(z, loss=loss, labels=labels):
                return loss(jnp.where(labels == 1, z, -10.0), labels)

            label = f"{name}, object of {share:.0%}"
            line = line | style if loss is cross_entropy else style | line
            curve(value, slope, logit, of_object, label, **line)
    value.set(title="A small object counts as much as a large one", ylim=(-0.05, 1.3))
    value.legend()


def iou_loss(figure: Figure) -> None:
    target = jnp.array([[0.0, 0.0, 100.0, 100.0]])
    shift = np.linspace(-180, 180, 721)
    xlabel = "shift of a 100 x 100 px box from its target [px]"
    value, slope = value_and_gradient(figure, xlabel, slope_unit="[per px]")
    for mode in ("log", "square", "linear"):

        def loss(x, mode=mode):
            pred = target + x * jnp.array([1.0, 0.0, 1.0, 0.0])
            return vjl.iou_loss(pred, target, vjl.sum_loss, mode)

        curve(value, slope, shift, loss, mode, jump=0.015)
    for axes in (value, slope):
        for sign in (-1, 1):
            axes.axvspan(sign * 100, sign * 180, color="#ECECEC", zorder=0)
    value.set(ylim=(0, 5), xlim=(-180, 180), title="Without overlap the gradient is 0")
    value.text(-140, 2.5, "no overlap:\nlog is 13.8\n(not shown)", ha="center", va="center")
    value.legend(loc="upper center")
    slope.set(ylim=(-0.1, 0.1))
    slope.text(-140, 0.02, "gradient 0", ha="center")


def giou_loss(figure: Figure) -> None:
    target = jnp.array([0.0, 0.0, 100.0, 100.0])
    shift = np.linspace(0, 300, 601)
    xlabel = "shift of a 100 x 100 px box from its target [px]"
    value, slope = value_and_gradient(figure, xlabel, slope_unit="[per px]")
    for loss, label, style in [
        (partial(vjl.iou_loss, mode="linear"), "1 − IoU", dict(color=GREY, linewidth=1)),
        (vjl.giou_loss, "GIoU", dict(color="C0")),
        (vjl.diou_loss, "DIoU", dict(color="C1")),
    ]:

        def of_shift(x, loss=loss):
            return loss(target + x * jnp.array([1.0, 0.0, 1.0, 0.0]), target)

        curve(value, slope, shift, of_shift, label, jump=0.003, **style)
    for axes in (value, slope):
        axes.axvspan(100, 300, color="#ECECEC", zorder=0)
    value.set(ylim=(0, 2), xlim=(0, 300), title="GIoU and DIoU have a gradient without overlap")
    value.text(290, 0.1, "no overlap", ha="right")
    value.legend(loc="upper left")


def multi_pos_cross_entropy(figure: Figure) -> None:
    def loss(positives):
        pred = jnp.concatenate([positives, jnp.zeros(5)])[None]
        return vjl.multi_pos_cross_entropy(pred, jnp.array([[1, 1, 0, 0, 0, 0, 0]]), vjl.sum_loss)

    landscape(
        figure,
        loss,
        np.linspace(-4, 6, 201),
        "loss [nats], with 5 negatives at similarity 0",
        xlabel="similarity of one positive",
        ylabel="similarity of the other positive",
        title="The lower similarity is raised first",
    )


def embedding_distance_loss(figure: Figure) -> None:
    similarity = np.linspace(-1, 1, 801)
    value, slope = value_and_gradient(figure, "cosine similarity of the pair")
    for target, label in [(1, "the same object"), (0, "different objects")]:

        def loss(s, target=target):
            return vjl.embedding_distance_loss(s[None, None], jnp.full((1, 1), target))

        curve(value, slope, similarity, loss, label)
    for axes in (value, slope):
        axes.axvspan(-1, 0, color="#ECECEC", zorder=0)
    value.set(title="Targets: 1, or below neg_margin = 0.3", xlim=(-1, 1))
    value.legend(loc="center left")
    slope.text(-0.5, -1.2, "gradient 0 below 0,\nfor both kinds of pairs", ha="center")


def orthogonal_transform_regularization_loss(figure: Figure) -> None:
    def loss(x):
        a, b = x
        transform = jnp.stack([jnp.stack([a, -b]), jnp.stack([b, a])])
        return vjl.orthogonal_transform_regularization_loss([transform[None]])

    landscape(
        figure,
        loss,
        np.linspace(-1.6, 1.6, 201),
        "loss",
        xlabel="a of the transform [[a, −b], [b, a]]",
        ylabel="b",
        title="The loss is 0 for rotations (dotted circle)",
    )
    circle = np.linspace(0, 2 * np.pi, 200)
    figure.axes[0].plot(np.cos(circle), np.sin(circle), color="white", linestyle=":")


def dense_anchor_head_loss(figure: Figure) -> None:
    logit = np.linspace(-6, 6, 401)
    value, slope = value_and_gradient(figure, "logit of an anchor", "[nats]")
    heads = [("RPN", vjl.rpn_loss, "-"), ("RetinaNet", vjl.retinanet_head_loss, "--")]
    for name, head, line in heads:
        for label, kind, color in [(1, "object", "C0"), (0, "background", "C1")]:

            def loss(z, head=head, label=label):
                box = jnp.zeros((1, 1, 4))
                return head(z.reshape(1, 1, 1), box, jnp.full((1, 1), label), box)[0]

            style = dict(color=color, linestyle=line)
            curve(value, slope, logit, loss, f"{name}, {kind}", **style)
    value.set(title="RetinaNet's focal loss leaves easy anchors alone", ylim=(-0.1, 7))
    value.legend(loc="upper center")


def rcnn_loss(figure: Figure) -> None:
    def loss(x):
        margin, error = x
        class_outs = jnp.stack([margin, 0.0, 0.0])[None]
        deltas = jnp.zeros(8).at[0].set(error)[None]
        inputs = class_outs, deltas, jnp.array([0]), jnp.zeros((1, 4))
        smooth = vjl.SmoothL1Loss(beta=1.0)
        return sum(vjl.rcnn_loss(*inputs, num_classes=2, loss_bbox=smooth))

    landscape(
        figure,
        loss,
        np.linspace(-4, 4, 201),
        "sum of both losses, smooth L1 of boxes",
        xlabel="logit of the class of the object − the others",
        ylabel="error of one delta",
        title="A class and a box are learned together",
    )


def yolox_head_loss(figure: Figure) -> None:
    target = jnp.array([0.0, 0.0, 100.0, 100.0])
    shift = np.linspace(-150, 150, 601)
    xlabel = "shift of one box of 100 x 100 px [px]"
    value, slope = value_and_gradient(figure, xlabel, slope_unit="[per px]")
    for count in (1, 2, 4):

        def loss(x, count=count):
            moved = target.at[jnp.array([0, 2])].add(x)
            boxes = jnp.broadcast_to(target, (1, 4, 4)).at[0, 0].set(moved)
            scores = jnp.zeros((1, 4, 1))
            on = jnp.arange(4)[None] < count
            targets = scores, jnp.broadcast_to(target, (1, 4, 4))
            return vjl.yolox_head_loss(scores, boxes, scores[..., 0], on, *targets).loss_bbox

        curve(value, slope, shift, loss, f"foreground of {count}", jump=0.04)
    title = "Sums are divided by the size of the foreground"
    value.set(title=title, ylabel="loss_bbox", ylim=(-0.2, 9))
    value.legend()


def mask_rcnn_head_loss(figure: Figure) -> None:
    photo, labels = coins()
    logits = coin_logits(photo, blur=3.0)  # two classes, on the last axis
    preds = jnp.moveaxis(logits, -1, 1)
    target = (labels == 1)[None]

    def loss(preds):
        return vjl.mask_rcnn_head_loss(preds, jnp.array([1]), target).rcnn_loss_mask

    gradient = jax.grad(loss)(preds)[0] * target.size
    figure.set_size_inches(5.2, 3.2)
    axes = figure.subplots(2, 2)
    image(axes[0, 0], target[0], "target mask of class 1", cmap="gray")
    image(axes[0, 1], preds[0, 1], "its predicted logits", vmin=-3, vmax=3)
    limits = dict(vmin=-1, vmax=1, cmap="coolwarm")
    image(axes[1, 0], gradient[1], "gradient of class 1", **limits)
    shown = image(axes[1, 1], gradient[0], "gradient of class 0: it is 0", **limits)
    figure.colorbar(shown, ax=axes, label="gradient [nats per logit]", shrink=0.9)


def qdtrack_instance_similarity_loss(figure: Figure) -> None:
    value, slope = value_and_gradient(
        figure, "direction of the key embedding [degrees]", slope_unit="[per radian]"
    )
    directions = jnp.radians(jnp.array([0.0, 120.0]))
    references = 2 * jnp.stack([jnp.cos(directions), jnp.sin(directions)], -1)[None, None]

    def losses(angle):
        key = 2 * jnp.stack([jnp.cos(angle), jnp.sin(angle)])[None, None]
        ids = jnp.array([[7]]), jnp.array([[[7, 8]]])
        return vjl.qdtrack_instance_similarity_loss(key, references, *ids)

    degrees = np.linspace(-180, 180, 721)
    for i, name in enumerate(vjl.QDTrackInstanceSimilarityLosses._fields):
        curve(value, slope, degrees, lambda x, i=i: losses(x)[i], name, scale=np.pi / 180)
    for axes in (value, slope):
        axes.axvline(0, color="C2", linestyle=":")
        axes.axvline(120, color=GREY, linestyle=":")
    value.set(title="Turn to the positive, away from the negative", xlim=(-180, 180))
    value.set(xticks=range(-180, 181, 60))
    value.legend(loc="upper left")
    slope.text(4, -0.6, "positive", color="C2")
    slope.text(116, -0.6, "negative", color=GREY, ha="right")


def box3d_uncertainty_loss(figure: Figure) -> None:
    value, slope = value_and_gradient(figure, "predicted confidence in the depth")
    for error in (0.0, 0.04, 0.1, 0.5):

        def loss(confidence, error=error):
            pred = jnp.zeros((1, 1, 10)).at[0, 0, 2].set(1 + error).at[0, 0, 9].set(confidence)
            target = jnp.zeros((1, 8)).at[0, 2].set(1.0)
            label = jnp.zeros(1, int)
            losses = vjl.box3d_uncertainty_loss(pred, target, label, num_rotation_bins=1)
            return losses["loss_unc3d"]

        curve(value, slope, np.linspace(0, 1.2, 601), loss, f"depth wrong by {error:g}")
    value.set(title="Only accurate depths teach confidence", ylim=(0, 4))
    value.legend(loc="upper right", bbox_to_anchor=(0.98, 1.02))


def velo_lstm_loss(figure: Figure) -> None:
    value, slope = value_and_gradient(figure, "error of one predicted position [m]", "[m]")
    truth = jnp.arange(6.0)[None, :, None]

    def losses(error):
        preds = jnp.concatenate([truth[:, 2:], truth[:, :1]], axis=1).at[0, 2].add(error)
        return vjl.velo_lstm_loss(preds, truth[:, 1:], truth, loc_dim=1, smooth_weight=0.5)

    error = np.linspace(-3, 3, 601)
    for name, label in [("pred_loss", "pred_loss"), ("linear_loss", "linear_loss, weight 0.5")]:
        curve(value, slope, error, lambda d, name=name: losses(d)[name], label)
    slope.plot(0, 0, "o", color="C1")
    value.set(title="A sudden change of motion costs more")
    value.legend()


PICTURES = [
    l1_loss,
    l2_loss,
    smooth_l1_loss,
    rotation_loss,
    iou_loss,
    giou_loss,
    cross_entropy,
    binary_cross_entropy,
    sigmoid_focal_loss,
    softmax_focal_loss,
    heatmap_focal_loss,
    seg_cross_entropy_loss,
    multi_level_seg_loss,
    dice_loss,
    multi_pos_cross_entropy,
    embedding_distance_loss,
    orthogonal_transform_regularization_loss,
    dense_anchor_head_loss,
    rcnn_loss,
    yolox_head_loss,
    mask_rcnn_head_loss,
    qdtrack_instance_similarity_loss,
    box3d_uncertainty_loss,
    velo_lstm_loss,
]


def value_and_gradient(figure: Figure, xlabel: str, unit: str = "", slope_unit: str = ""):
    """Create two panels, one above the other, so that they are legible on a phone."""
    value, slope = figure.subplots(2, 1, sharex=True)
    value.set(ylabel=f"loss {unit}")
    slope.set(ylabel=f"gradient {slope_unit}", xlabel=xlabel)
    return value, slope


def curve(value, slope, x, loss, label, scale=1.0, jump=0.4, **style) -> None:
    """Draw a loss of one number over x * scale; the line of the gradient is cut where it jumps."""
    losses, gradients = jax.vmap(jax.value_and_grad(loss))(jnp.asarray(x * scale, jnp.float32))
    value.plot(x, losses, label=label, **style)
    gaps = np.flatnonzero(np.abs(np.diff(gradients)) > jump) + 1
    slope.plot(np.insert(x, gaps, x[gaps]), np.insert(gradients, gaps, np.nan), **style)


def landscape(figure, loss, ticks, label, **texts) -> None:
    """Draw a loss of two numbers as a map, with arrows in the direction of gradient descent."""
    axes = figure.subplots()

    def grid(ticks):
        return jnp.stack(jnp.meshgrid(ticks, ticks), -1).reshape(-1, 2).astype(jnp.float32)

    values = jax.vmap(loss)(grid(ticks)).reshape(len(ticks), -1)
    image = axes.pcolormesh(ticks, ticks, values, shading="gouraud", rasterized=True)
    figure.colorbar(image, label=label, shrink=0.9)
    points = grid(np.linspace(ticks[0], ticks[-1], 15)[1:-1])
    steps = -jax.vmap(jax.grad(loss))(points)
    axes.quiver(*points.T, *steps.T, color="white", edgecolor="black", linewidth=0.4, width=0.006)
    axes.grid(False)
    axes.set(aspect="equal", **texts)


def coins() -> tuple[np.ndarray, np.ndarray]:
    """A photograph of coins, and labels: 1 for coins, 0 for the rest, 255 along the outlines."""
    photo = data.coins()[170:255, 75:205] / 255.0
    smooth = filters.gaussian(photo, 1.0)
    coin = ndimage.binary_fill_holes(smooth > filters.threshold_otsu(smooth))
    coin = ndimage.binary_opening(coin, iterations=2)
    inside = ndimage.binary_erosion(coin, iterations=1, border_value=1)
    outline = ndimage.binary_dilation(coin) & ~inside
    return photo, np.where(outline, 255, coin).astype(np.uint8)


def coin_logits(photo: np.ndarray, blur: float) -> np.ndarray:
    """Logits of an imperfect network, made from the brightness of the blurred photograph."""
    z = 8 * (filters.gaussian(photo, blur) - filters.threshold_otsu(photo))
    return np.stack([-z, z], -1)[None].astype(np.float32)


def image(axes, values, title, **style):
    axes.set_title(title, fontsize=9.5)
    axes.set(xticks=[], yticks=[])
    axes.grid(False)
    return axes.imshow(values, **style)


if __name__ == "__main__":
    draw(Path(sys.argv[1]))
