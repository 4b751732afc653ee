"""One loss a file, named as in ``vis4d.op.loss``; import them from ``vis4d_jax_loss``."""
