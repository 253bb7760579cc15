"""Shards -> a trained model: order, batch, model, loss, engine, checkpoint."""
