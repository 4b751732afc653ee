"""The losses of QDTrack's embedding head: identities across frames."""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from vis4d_jax_loss._checks import (
    check_label_dtype,
    check_layout,
    check_mask,
    check_number,
    check_numeric,
)
from vis4d_jax_loss._mesh_axis import AxisName
from vis4d_jax_loss._numerics import (
    as_array,
    as_option,
    count_true,
    expand_mask,
    fill_masked,
    to_common_float,
)
from vis4d_jax_loss._value_checks import expect_finite
from vis4d_jax_loss.base import HeadLoss
from vis4d_jax_loss.losses.embedding_distance import embedding_distance_loss
from vis4d_jax_loss.losses.multi_pos_cross_entropy import multi_pos_cross_entropy
from vis4d_jax_loss.reducer import mean_loss
from vis4d_jax_loss.weighted_reducer import SumWeightedLoss

_SHORTEST = 1e-12  # An embedding that is shorter has no direction.


class QDTrackInstanceSimilarityLosses(NamedTuple):
    """What :func:`qdtrack_instance_similarity_loss` returns.

    Args:
        track_loss: The multi-positive cross-entropy, times 0.25.
        track_loss_aux: The embedding distance.

    Example:
        >>> key, ref = jnp.array([[[2.0, 0.0]]]), jnp.array([[[[1.0, 0.0], [0.0, 1.0]]]])
        >>> losses = qdtrack_instance_similarity_loss(
        ...     key, ref, jnp.array([[7]]), jnp.array([[[7, 8]]]))
        >>> print(losses.track_loss_aux)
        0.0
    """

    track_loss: jax.Array
    track_loss_aux: jax.Array


@jax.named_scope("qdtrack_instance_similarity_loss")
def qdtrack_instance_similarity_loss(
    key_embeddings: ArrayLike,
    ref_embeddings: ArrayLike,
    key_track_ids: ArrayLike,
    ref_track_ids: ArrayLike,
    *,
    softmax_temp: ArrayLike = -1.0,
    key_where: ArrayLike | None = None,
    ref_where: ArrayLike | None = None,
    axis_name: AxisName | None = None,
) -> QDTrackInstanceSimilarityLosses:
    r"""Compare the embeddings of a key image with those of reference images, as in QDTrack.

    For each pair of a key image and a reference image, with N and M objects,

    .. math::
        \ell_\mathrm{track} &= \frac{0.25}{10^{-5} + \sum_i w_i}
        \sum_i w_i \log \Bigl( 1 + \sum_{n} \sum_{p} e^{(s_{in} - s_{ip}) / \tau} \Bigr) \\
        \ell_\mathrm{aux} &= \mathrm{embedding\ distance} \Bigl(
        \frac{s_{ij}}{|k_i| \, |r_j|} \Bigr)

    with the products :math:`s_{ij} = k_i \cdot r_j` of their embeddings. References with the
    identity of key i are its positives p, all others its negatives n; :math:`w_i` is 1 if there is
    a positive, and 0 otherwise. These are :func:`multi_pos_cross_entropy` and
    :func:`embedding_distance_loss`, averaged over all V x B pairs of images, empty ones included.

    Args:
        key_embeddings: ``[B, N, D]``, embeddings of the objects in each key image, not normalised.
            Half precision is computed in float32.
        ref_embeddings: ``[V, B, M, D]``, the same for V reference images of each key image.
        key_track_ids: Identities ``[B, N]``. Equal identities match, -1 too: mask the keys that
            have none.
        ref_track_ids: Identities ``[V, B, M]``.
        softmax_temp: Temperature :math:`\tau`, which may be traced. 0 or less means 1.
        key_where: Mask of valid key objects ``[B, N]``, or of images ``[B]``. Padding may contain
            anything, NaN and identities that match included.
        ref_where: Mask of valid reference objects ``[V, B, M]``, or of images ``[V, B]``.
        axis_name: Mesh axis (or axes) of a ``shard_map`` over which the images B are sharded.

    Returns:
        ``QDTrackInstanceSimilarityLosses(track_loss, track_loss_aux)``, scalars. An embedding
        shorter than 1e-12 has cosines of 0, without a gradient.

    Raises:
        ValueError: If the shapes do not match.
        TypeError: If an input is not numeric, or a mask is not boolean.

    Example:
        >>> key, ref = jnp.array([[[1.0]]]), jnp.log(jnp.array([[[[4.0], [1.0], [2.0]]]]))
        >>> losses = qdtrack_instance_similarity_loss(
        ...     key, ref, jnp.array([[5]]), jnp.array([[[5, 6, -1]]]))
        >>> print(losses.track_loss, 0.25 * jnp.log(1 + (1 + 2) / 4))
        0.13990255 0.13990395

    References:
        Pang et al., Quasi-Dense Similarity Learning for Multiple Object Tracking, CVPR 2021.
    """
    name = "qdtrack_instance_similarity_loss"
    check_number(name, softmax_temp=softmax_temp)
    keys, refs = as_array(key_embeddings), as_array(ref_embeddings)
    key_ids, ref_ids = _read_identities(name, key_track_ids, ref_track_ids)
    _check_objects(name, keys, refs, key_ids, ref_ids)
    key_mask = _full_mask(name, "key_where", key_where, key_ids.shape)
    ref_mask = _full_mask(name, "ref_where", ref_where, ref_ids.shape)

    # Replace padding.
    keys = expect_finite(name, "key_embeddings", fill_masked(keys, key_mask))
    refs = expect_finite(name, "ref_embeddings", fill_masked(refs, ref_mask))
    keys, refs = to_common_float(keys, refs)

    # One matrix product serves both losses.
    products = jnp.einsum("bnd,vbmd->vbnm", keys, refs)
    cosines = products * _pairs(jnp.multiply, _inverse_length(keys), _inverse_length(refs))
    temperature = as_option(softmax_temp, products.dtype)
    products = products / jnp.where(temperature > 0, temperature, 1)

    same = _pairs(jnp.equal, key_ids, ref_ids)
    valid = _pairs(jnp.logical_and, key_mask, ref_mask)
    losses = jax.vmap(jax.vmap(_losses_of_images))(products, cosines, same, valid)
    track_loss, track_loss_aux = (mean_loss(loss, axis_name=axis_name) for loss in losses)
    return QDTrackInstanceSimilarityLosses(0.25 * track_loss, track_loss_aux)


def _losses_of_images(
    products: jax.Array, cosines: jax.Array, same: jax.Array, valid: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Both losses of a key image and a reference image, from their pairs ``[N, M]``."""
    has_positive = jnp.any(same & valid, axis=-1)
    number = count_true(has_positive, products.dtype)
    reducer = SumWeightedLoss(has_positive.astype(products.dtype), number + 1e-5)
    track_loss = multi_pos_cross_entropy(products, same, reducer, where=valid)
    return track_loss, embedding_distance_loss(cosines, same, where=valid)


def _pairs(function: Callable[..., jax.Array], keys: jax.Array, refs: jax.Array) -> jax.Array:
    """Combine numbers of keys ``[B, N]`` and references ``[V, B, M]`` to ``[V, B, N, M]``."""
    return function(keys[None, :, :, None], refs[:, :, None, :])


def _inverse_length(embeddings: jax.Array) -> jax.Array:
    """One over the length; 0, without a gradient, for an embedding without a direction.

    The derivative of ``rsqrt`` contains its cube, which leaves float32 at lengths of 1e13.
    """
    square = jnp.sum(embeddings * embeddings, axis=-1)
    has_direction = square >= _SHORTEST**2
    return jnp.where(has_direction, 1 / jnp.sqrt(jnp.where(has_direction, square, 1)), 0)


def _read_identities(
    function: str, key_ids: ArrayLike, ref_ids: ArrayLike
) -> tuple[jax.Array, jax.Array]:
    """Identities of one dtype. JAX keeps the low 32 bits of wide integers of NumPy."""
    keys, refs = jnp.asarray(key_ids), jnp.asarray(ref_ids)
    check_label_dtype(function, key_track_ids=keys, ref_track_ids=refs)
    with jax.numpy_dtype_promotion("standard"):
        dtype = jnp.promote_types(keys.dtype, refs.dtype)
    return keys.astype(dtype), refs.astype(dtype)


def _check_objects(
    function: str, keys: jax.Array, refs: jax.Array, key_ids: jax.Array, ref_ids: jax.Array
) -> None:
    check_numeric(function, key_embeddings=keys, ref_embeddings=refs)
    check_layout(
        function,
        key_embeddings=(keys, "[B, N, D]"),
        ref_embeddings=(refs, "[V, B, M, D]"),
        key_track_ids=(key_ids, "[B, N]"),
        ref_track_ids=(ref_ids, "[V, B, M]"),
    )


def _full_mask(
    function: str, name: str, where: ArrayLike | None, shape: tuple[int, ...]
) -> jax.Array:
    mask = check_mask(function, where, shape, name)
    return jnp.ones(shape, bool) if mask is None else expand_mask(mask, shape)


class QDTrackInstanceSimilarityLoss(HeadLoss):
    """:func:`qdtrack_instance_similarity_loss` as a module.

    Args:
        softmax_temp: Temperature of the products; 0 or less means 1.
        axis_name: Mesh axis (or axes) of a ``shard_map`` over which the images are sharded.

    Example:
        >>> key, ref = jnp.array([[[2.0, 0.0]]]), jnp.array([[[[1.0, 0.0], [1.0, 0.0]]]])
        >>> losses = QDTrackInstanceSimilarityLoss()(
        ...     key, ref, jnp.array([[7]]), jnp.array([[[7, 8]]]))
        >>> print(round(float(losses.track_loss_aux), 3))  # (0**2 + 0.7**2) / 2
        0.245
    """

    softmax_temp: float = -1.0
    axis_name: AxisName | None = dataclasses.field(default=None, kw_only=True)

    def _check_options(self) -> None:
        check_number(type(self).__name__, softmax_temp=self.softmax_temp)

    def __call__(
        self,
        key_embeddings: ArrayLike,
        ref_embeddings: ArrayLike,
        key_track_ids: ArrayLike,
        ref_track_ids: ArrayLike,
        *,
        key_where: ArrayLike | None = None,
        ref_where: ArrayLike | None = None,
    ) -> QDTrackInstanceSimilarityLosses:
        """Compute the losses.

        Args:
            key_embeddings: ``[B, N, D]``, embeddings of the objects in each key image.
            ref_embeddings: ``[V, B, M, D]``, the same for V reference images of each key image.
            key_track_ids: Identities ``[B, N]``. Equal identities match, -1 included.
            ref_track_ids: Identities ``[V, B, M]``.
            key_where: Mask of valid key objects ``[B, N]``, or of images ``[B]``.
            ref_where: Mask of valid reference objects ``[V, B, M]``, or of images ``[V, B]``.

        Returns:
            ``QDTrackInstanceSimilarityLosses(track_loss, track_loss_aux)``, scalars.
        """
        return qdtrack_instance_similarity_loss(
            key_embeddings,
            ref_embeddings,
            key_track_ids,
            ref_track_ids,
            softmax_temp=self.softmax_temp,
            key_where=key_where,
            ref_where=ref_where,
            axis_name=self.axis_name,
        )
