# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

import json
from collections import Counter
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from torchgeo_mapsr.datasets.legends.legend import Legend
from torchgeo_mapsr.errors import InputError
from torchgeo_mapsr.models.head.head import SCORES, Head
from torchgeo_mapsr.models.head.prior import LabelPrior
from torchgeo_mapsr.models.head.probe import ABSENT, LinearProbe
from torchgeo_mapsr.models.head.prompts import CosinePrompts
from torchgeo_mapsr.models.tokens.bilateral import JointBilateral
from torchgeo_mapsr.models.tokens.tokens import Tokens

TARGET = Legend.load('land-cover-4')
SIZE = (21, 30)
D = 11


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def make(
    score: str = 'fusion', k: int = 1, absent: int | None = None, codes: int = 0
) -> Head:
    """Four classes of eleven features, one of them absent perhaps; of some codes."""
    probe = LinearProbe(random(codes or 4, D, seed=1), random(codes or 4, seed=2))
    lda = LinearProbe(random(4 * k, D, seed=3), random(4 * k, seed=4))
    prompts = random(4, k, D, seed=5)
    frequency = torch.tensor([0.4, 0.3, 0.2, 0.1])
    translation = None
    if codes:
        translation = random(codes, 4, seed=11).softmax(1)
        translation = translation * torch.tensor([1.0, 1, 1, 1.25])
    if absent is not None:
        if translation is None:
            probe.bias[absent] = ABSENT
        else:
            translation[:, absent] = 0
        lda.bias[absent * k : (absent + 1) * k] = ABSENT
        prompts[absent] = torch.nan
        frequency[absent] = 0
    return Head(
        TARGET,
        score,
        probe,
        translation,
        lda,
        CosinePrompts(prompts, random(D, seed=6)),
        0.13,
        LabelPrior(torch.tensor([1, 2, 3, 4]), torch.eye(4), frequency, 0.7, 1.0),
        () if absent is None else (absent,),
        {'chips': 3, 'fit': {'l2': 1e-3, 'losses': {'0.001': 0.1 + 0.2}}, 'x': None},
    )


def tokens(guided: bool = False) -> Tokens:
    shapes = (2, 3, 21, 30), (2, 4, 11, 15), (2, 4, 3, 4)
    levels = tuple(random(*shape, seed=i) for i, shape in enumerate(shapes))
    made = Tokens(levels, (1, 2, 8), SIZE)
    if guided:
        made = made.with_upsampler(JointBilateral(random(2, 3, *SIZE, seed=9), 1))
    return made


def dense(tokens: Tokens) -> Tensor:
    """U F, (B, H, W, D)."""
    at = torch.meshgrid(*(torch.arange(n) for n in (2, *SIZE)), indexing='ij')
    return tokens.gather(*(index.flatten() for index in at)).view(2, *SIZE, D)


def expected(made: Head, x: Tensor) -> Tensor:
    """Log-probabilities from features (…, D), without a shortcut."""
    x = x.double()

    def classes(scores: Tensor) -> Tensor:
        return scores.unflatten(-1, (4, -1)).amax(-1)

    probe = (x @ made.probe.weight.double().T + made.probe.bias).softmax(-1)
    if made.translation is not None:
        probe = probe @ made.translation.double()
        probe = probe / probe.sum(-1, keepdim=True)
    lda = classes(x @ made.lda.weight.double().T + made.lda.bias).softmax(-1)
    assert made.cosine is not None
    unit = F.normalize(x - made.cosine.centre, dim=-1)
    known = made.prior.frequency > 0
    directions = F.normalize(made.cosine.prompts.double().nan_to_num(), dim=-1)
    cosine = classes(unit @ directions.flatten(0, 1).T) / made.temperature
    cosine = cosine.masked_fill(~known, -torch.inf).softmax(-1)
    return {'probe': probe, 'lda': lda, 'fusion': (probe + lda) / 2, 'cosine': cosine}[
        made.score
    ]


@pytest.mark.parametrize('guided', [False, True])
@pytest.mark.parametrize('k', [1, 3])
@pytest.mark.parametrize('codes', [0, 7])
@pytest.mark.parametrize('score', SCORES)
def test_equals_dense_computation(score: str, codes: int, k: int, guided: bool) -> None:
    made = make(score, k, codes=codes)
    found = made.probabilities(tokens(guided))
    assert found.shape == (2, 4, *SIZE)
    assert found.dtype == torch.float32
    want = expected(made, dense(tokens(guided))).movedim(-1, 1)
    torch.testing.assert_close(found.double(), want, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(found.sum(1), torch.ones(2, *SIZE))


@pytest.mark.parametrize('k', [1, 2])
@pytest.mark.parametrize('codes', [0, 7])
@pytest.mark.parametrize('score', SCORES)
def test_absent_classes_are_never_predicted(score: str, codes: int, k: int) -> None:
    made = make(score, k, absent=2, codes=codes)
    assert made.present.tolist() == [True, True, False, True]
    # Labels may say what they like.
    wanted = torch.zeros(2, 4, *SIZE)
    wanted[:, 2] = 50.0
    for said in (None, wanted):
        found = made.probabilities(tokens(), said)
        assert (found[:, 2] == 0).all()
        torch.testing.assert_close(found.sum(1), torch.ones(2, *SIZE))


@pytest.mark.parametrize('score', SCORES)
def test_evidence(score: str) -> None:
    made = make(score)
    plain = made.probabilities(tokens())
    said = random(2, 4, *SIZE, seed=3)
    heard = made.probabilities(tokens(), said)
    posterior = (plain.double().log() + 0.7 * said.double()).softmax(1)
    torch.testing.assert_close(heard.double(), posterior, atol=1e-5, rtol=1e-4)
    assert not torch.equal(plain, heard)
    # Labels alone, however much they weigh: of classes that are possible at all.
    sure = replace(made, prior=made.prior.with_weight(1e4)).probabilities(
        tokens(), said
    )
    assert sure.isfinite().all()
    possible = plain > 0
    loudest = said.masked_fill(~possible, -torch.inf).argmax(1)
    assert torch.equal(sure.argmax(1), loudest)
    deaf = replace(made, prior=made.prior.with_weight(0.0))
    assert torch.equal(deaf.probabilities(tokens(), said), plain)
    # No labels there: nothing is added.
    nothing = made.probabilities(tokens(), torch.zeros_like(said))
    torch.testing.assert_close(nothing, plain)


def test_class_without_a_prompt_keeps_the_probability_of_the_probe() -> None:
    made = replace(make(codes=7), unprompted=(3,))
    made.lda.bias[3] = ABSENT
    probe = replace(made, score='probe').probabilities(tokens())
    lda = replace(made, score='lda').probabilities(tokens())
    fused = made.probabilities(tokens())
    torch.testing.assert_close(fused[:, 3], probe[:, 3])
    torch.testing.assert_close(fused.sum(1), torch.ones(2, *SIZE))
    # The others share what is left as the discriminant has it.
    left = lda[:, :3] * (1 - probe[:, 3:])
    torch.testing.assert_close(fused[:, :3], (probe[:, :3] + left) / 2)


def test_translation_does_not_depend_on_the_tile() -> None:
    made = make('probe', codes=7)
    logits = random(1, 7, *SIZE, seed=3)
    whole, part = made.decide(logits), made.decide(logits[..., 3:20, 8:25])
    torch.testing.assert_close(whole[..., 3:20, 8:25], part, atol=1e-6, rtol=0)


def same(a: Head, b: Head) -> None:
    (tensors, fields), (others, their) = a.state(), b.state()
    assert fields == their
    assert tensors.keys() == others.keys()
    for name, x in tensors.items():
        assert x.dtype == others[name].dtype
        assert torch.equal(x.nan_to_num(7), others[name].nan_to_num(7))


@pytest.mark.parametrize('codes', [0, 7])
@pytest.mark.parametrize('score', SCORES)
def test_state_and_back(score: str, codes: int) -> None:
    made = make(score, k=2, absent=1, codes=codes)
    tensors, fields = made.state()
    again = Head.from_state(tensors, json.loads(json.dumps(fields)))
    same(made, again)
    assert torch.equal(made.probabilities(tokens()), again.probabilities(tokens()))


def test_legend_of_the_user_travels_along() -> None:
    rows = [{'code': c, 'name': f'Klasse {c} · äöü'} for c in (7, 3, 200, 12)]
    legend = Legend.load({'name': 'mine', 'nodata': 255, 'classes': rows})
    state = replace(make(), target=legend).state()
    assert Head.from_state(*state).target == legend


def test_cosine_needs_its_prompts() -> None:
    with pytest.raises(InputError, match="score='cosine'"):
        replace(make(), cosine=None, score='cosine')


def test_to_another_device() -> None:
    """The meta device stands for any: nothing stays behind."""
    made = make(k=2, codes=7)
    moved = made.to('meta')
    assert moved.cosine is not None
    for tensor in (
        moved.probe.weight,
        moved.probe.bias,
        moved.lda.weight,
        moved.lda.bias,
        moved.cosine.prompts,
        moved.cosine.centre,
        moved.translation,
    ):
        assert tensor.device.type == 'meta'
    assert made.probe.weight.device.type == 'cpu'
    same(made, made.to('cpu'))
    for score in SCORES:
        if score != 'cosine':  # whether it is centred depends on values
            found = replace(moved, score=score).probabilities(tokens().to('meta'))
            assert found.shape == (2, 4, *SIZE)
            assert found.device.type == 'meta'


@pytest.mark.parametrize('score', SCORES)
def test_gpu_agrees(gpu: Counter[str] | None, score: str) -> None:
    made = make(score, k=2, absent=0)
    said = random(2, 4, *SIZE, seed=3)
    there, evidence = made.to('cuda'), said.to('cuda')
    given = tokens().to('cuda')
    if gpu is not None:
        gpu.clear()
    found = there.probabilities(given, evidence)
    assert found.is_cuda
    # The CPU hands the next chip over while the GPU is at this one.
    assert score == 'cosine' or not gpu or not gpu['waits']
    torch.testing.assert_close(
        found.cpu(), made.probabilities(tokens(), said), atol=1e-3, rtol=1e-3
    )


@pytest.mark.parametrize('score', SCORES)
def test_tokens_of_half_precision(score: str) -> None:
    """Scores are probabilities all the same, near those of full precision."""
    made = make(score)
    full = made.probabilities(tokens())
    half = made.probabilities(tokens().to(torch.bfloat16))
    assert half.dtype == torch.float32
    torch.testing.assert_close(half.sum(1), torch.ones(2, *SIZE))
    assert (half - full).abs().mean() < 0.02


def test_unknown_score() -> None:
    with pytest.raises(InputError, match='fusion, probe, lda, cosine'):
        make('best')
