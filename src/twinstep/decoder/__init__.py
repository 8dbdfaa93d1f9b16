"""A natively multimodal Transformer decoder in JAX: the workload twinstep protects.

What Gemini 1.0 is said to be, at any size: text, images, video and sound in one packed
batch from the start, multi-query attention, a context of 32,768 tokens. It uses the
library as any user does, through `import twinstep`.

    config, spec   what a model is, as data            (neither jax nor twinstep)
    model/         the batch, the layers, sampling
    shard          over many devices
    data/          documents, tokenizer, mixture, batches
    train/         a step, the loop, the ledger
    eval/          what it has learnt

The Gemini 1.0 report fixes little: a decoder, multi-query attention, the context, what
goes in. What it does not state is Gemma's published practice or our own choice; each
such choice says which.
"""
