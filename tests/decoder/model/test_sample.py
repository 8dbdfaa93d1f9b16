"""Answers and scores: what the whole forward pass says, whoever else is asked."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.decoder.model.examples import SMALL, initial, mixes
from twinstep.decoder.model import decode, decoder, sample
from twinstep.decoder.model.sample import Sampler
from twinstep.decoder.model.segments import BatchShape, Segment, Text, fill, size_of
from twinstep.errors import UsageError

ROWS = 3
LEAST = BatchShape(rows=ROWS, tokens=32, images=16, audio=16)
"""One shape for all: three things are compiled."""

WHOLE = BatchShape(rows=1, tokens=48, images=16, audio=16)


@pytest.fixture(scope="module")
def sampler() -> Sampler:
    # A pointed distribution: ties between tokens would be decided by rounding.
    params = dict(initial(SMALL))
    params["embed"] = params["embed"] * 2
    return Sampler(params, SMALL, least=LEAST)


@functools.cache
def _whole():
    return jax.jit(functools.partial(decoder.forward, config=SMALL))


def _raw(sampler: Sampler, example: list[Segment]) -> np.ndarray:
    """Logits of what comes after the example, by one whole forward pass."""
    batch = fill([[example]], WHOLE, SMALL.tower)
    x = np.asarray(_whole()(sampler._params, batch))[0]
    last = int(np.asarray(batch.segment).sum()) - 1
    return np.asarray(sampler._params["embed"]) @ x[last]


def test_what_is_said_is_what_whole_passes_say(sampler: Sampler) -> None:
    # 20 tokens: more than one call says, and more than the local window holds.
    for prompt in (mixes()[0], mixes()[4]):
        [said] = sampler.generate([prompt], tokens_max=20, stop_ids=())
        assert len(said) == 20
        grown = list(prompt)
        for token in said:
            assert token == int(_raw(sampler, grown).argmax())
            grown.append(Text([token]))


def test_the_cache_holds_what_a_whole_pass_would_compute(sampler: Sampler) -> None:
    """To the logits: a wrong position changes them long before it changes a token."""
    prompts = [mixes()[0], mixes()[4]]
    batch = fill([[prompt] for prompt in prompts], LEAST, SMALL.tower)
    state = decode.read(sampler._params, batch, config=SMALL, room=sample.STEPS)
    nothing = jnp.zeros(ROWS, jnp.uint32)
    tokens, after = decode.say(
        sampler._params,
        state,
        decode.Choice(nothing, nothing, jnp.float32(0)),
        jnp.int32(0),
        config=SMALL,
        steps=sample.STEPS,
        top_k=None,
    )
    for row, prompt in enumerate(prompts):
        said = Text(np.asarray(tokens)[row].tolist())
        for found, example in ((state, prompt), (after, [*prompt, said])):
            expected = _raw(sampler, example)
            np.testing.assert_allclose(found.raw[row], expected, atol=1e-4)


def test_alone_and_in_any_company_are_the_same_bits(sampler: Sampler) -> None:
    items = mixes(1)
    scores = sampler.score(items)
    said = sampler.generate(items, tokens_max=6, stop_ids=())
    warm = sampler.generate(items, tokens_max=6, temperature=1.0, seed=range(6))
    assert len({score.nats for score in scores}) == len(items)
    for at in range(len(items)):
        # As the first, the second and the third of its batch.
        for row in range(ROWS):
            company = [items[at - 1]] * row + [items[at]]
            assert sampler.score(company)[row] == scores[at]
            found = sampler.generate(company, tokens_max=6, stop_ids=())
            assert found[row] == said[at]
        seed = [at]
        assert sampler.generate(
            [items[at]], tokens_max=6, temperature=1.0, seed=seed
        ) == [warm[at]]


def test_logits_in_company_are_the_same_bits(sampler: Sampler) -> None:
    items = mixes(2)[:3]

    def raw(rows):
        batch = fill([[row] for row in rows], LEAST, SMALL.tower)
        state = decode.read(sampler._params, batch, config=SMALL, room=16)
        return np.asarray(state.raw)

    together, turned = raw(items), raw(items[::-1])
    np.testing.assert_array_equal(together, turned[::-1])
    np.testing.assert_array_equal(together[0], raw(items[:1])[0])


def test_scores_are_those_of_the_loss(sampler: Sampler) -> None:
    prompt = mixes()[1]
    [said] = sampler.generate([prompt], tokens_max=5, stop_ids=())
    other = [*said[:-1], (said[-1] + 1) % SMALL.vocabulary]
    right, wrong = sampler.score(
        [[*_unweighted(prompt), Text(ids, 1.0)] for ids in (said, other)]
    )
    assert right.tokens == wrong.tokens == 5
    assert right.greedy and not wrong.greedy and right.nats < wrong.nats
    batch = fill([[[*_unweighted(prompt), Text(said, 1.0)]]], WHOLE, SMALL.tower)
    x = np.asarray(_whole()(sampler._params, batch))[0].astype(np.float64)
    raw = x @ np.asarray(sampler._params["embed"], np.float64).T
    log_p = raw - np.log(np.exp(raw).sum(-1, keepdims=True))
    first = int(np.asarray(batch.segment).sum()) - 6
    own = log_p[np.arange(first, first + 5), said]
    np.testing.assert_allclose(-own.sum(), right.nats, rtol=1e-4)


def _unweighted(example: list[Segment]) -> list[Segment]:
    return [Text(part.ids) if isinstance(part, Text) else part for part in example]


def test_stops_end_an_answer(sampler: Sampler) -> None:
    prompts = [mixes()[0], mixes(3)[0]]
    said = sampler.generate(prompts, tokens_max=9, stop_ids=())
    fifth = said[0][4]
    first = said[0].index(fifth)
    stopped = sampler.generate(prompts, tokens_max=9, stop_ids=[fifth])
    assert stopped[0] == said[0][:first]
    asked = []

    def enough(tokens: list[int]) -> bool:
        asked.append(len(tokens))
        return len(tokens) == 3

    found = sampler.generate(prompts, tokens_max=9, stop_ids=(), stop=enough)
    assert found == [one[:3] for one in said] and asked == [1, 2, 3] * 2


def test_noise_is_of_the_seed_and_top_k_bounds_it(sampler: Sampler) -> None:
    prompt = mixes()[0]
    draw = functools.partial(sampler.generate, tokens_max=6, stop_ids=())
    greedy = draw([prompt])
    assert draw([prompt], temperature=5.0, top_k=1) == greedy
    hot = draw([prompt] * 3, temperature=5.0, seed=1)
    assert hot == draw([prompt] * 3, temperature=5.0, seed=1)
    assert len({tuple(said) for said in [*hot, *greedy]}) == 4
    assert draw([prompt] * 3, temperature=5.0, seed=2) != hot


def test_nothing_is_compiled_twice(sampler: Sampler) -> None:
    sampler.generate([mixes()[0]], tokens_max=6)
    sampler.score([mixes()[0]])
    compiled = decode.read, decode.say, decode.judge
    before = [function._cache_size() for function in compiled]
    again = Sampler(initial(SMALL, 1), SMALL, least=LEAST)
    again.generate([mixes(9)[0]] * 2, tokens_max=9, temperature=0.5, seed=[3, 4])
    again.score([mixes(9)[0]])
    assert [function._cache_size() for function in compiled] == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"tokens_max": 0}, "at least 1"),
        ({"tokens_max": 121}, "item 0 has 9 positions; 1 to 128"),
        ({"tokens_max": 1, "temperature": -1.0}, "temperature -1"),
        ({"tokens_max": 1, "top_k": 99}, "top_k 99; 1 to 48"),
        ({"tokens_max": 1, "seed": [1, 2]}, "2 seeds for 1 prompts"),
    ],
)
def test_what_cannot_be_is_refused(sampler: Sampler, arguments, message) -> None:
    with pytest.raises(UsageError, match=message):
        sampler.generate([mixes()[0]], **arguments)


def test_shapes_are_few_and_of_the_item_alone() -> None:
    sampler = Sampler({}, SMALL)
    shapes = {}
    for items in (mixes(), mixes()[::-1], mixes()[2:]):
        for shape, chosen in sampler._batches(items, 0):
            for at in chosen:
                size = size_of(items[at], SMALL.tower)
                assert size.fits(shape) and shape.rows == 16
                assert shapes.setdefault(size, shape) == shape
    assert {(s.tokens, s.images, s.audio) for s in shapes.values()} == {
        (32, 0, 0),
        (32, 16, 0),
        (32, 0, 16),
        (32, 16, 16),
    }
