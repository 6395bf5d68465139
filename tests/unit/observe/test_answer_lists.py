"""Lists of known answers that differ: one odd worker rules over nobody, and is told."""

import pytest

from .fakeworker import SCORED, TOLERANCE, find, target, until


def give_no_scores(worker):
    worker.tolerance = None
    worker.answers = [{"prompt": a["prompt"], "output": a["output"]} for a in SCORED]


def give_a_large_tolerance(worker):
    worker.tolerance = 9.0


def give_a_small_tolerance(worker):
    worker.tolerance = TOLERANCE / 10


def give_other_answers(worker):
    worker.answers = SCORED[:1]


@pytest.fixture
def begin(start):
    """Return what starts a worker that knows scores, and is odd if one says how."""

    async def begin(odd=None):
        worker = await start()
        worker.know_scores()
        if odd is not None:
            odd(worker)
        return worker

    return begin


@pytest.fixture
def ask(prober):
    """Return what asks workers by their keys, of which the last may be a new one."""

    async def ask(**workers):
        prober.set_targets([target(worker, key) for key, worker in workers.items()])
        for key in workers:
            await until(lambda key=key: is_judged(prober, key) or find(prober, key).unavailable)

    return ask


def is_judged(prober, key):
    found = find(prober, key)
    return found.right > 0 and not found.unavailable


async def goes_on(prober, key):
    """Wait for two more rounds, and see that none in between was judged as nothing."""
    before = find(prober, key).right
    await until(lambda: find(prober, key).right >= before + 2 or find(prober, key).unavailable)
    return is_judged(prober, key)


@pytest.mark.parametrize(
    "odd",
    [give_no_scores, give_a_large_tolerance, give_a_small_tolerance, give_other_answers],
)
async def test_an_odd_worker_that_came_first_rules_over_nobody(prober, ask, begin, odd):
    workers = {"odd": await begin(odd)}
    await ask(**workers)
    assert is_judged(prober, "odd")  # alone it is as good as any
    for name in ("one", "other"):
        workers[name] = await begin()
        await ask(**workers)
    await until(lambda: is_judged(prober, "one") and is_judged(prober, "other"))
    await until(lambda: find(prober, "odd").unavailable)
    assert find(prober, "odd").right == 0
    assert await goes_on(prober, "one")
    assert await goes_on(prober, "other")


@pytest.mark.parametrize("odd", [give_no_scores, give_a_large_tolerance])
@pytest.mark.parametrize("first", ["odd", "honest"])
async def test_of_two_workers_the_one_of_the_stricter_list_is_judged(
    prober, ask, begin, odd, first
):
    workers = {"odd": await begin(odd), "honest": await begin()}
    await ask(**{first: workers[first]})
    await ask(**workers)
    await until(lambda: find(prober, "odd").unavailable)
    await until(lambda: is_judged(prober, "honest"))
    assert await goes_on(prober, "honest")
    assert find(prober, "odd").unavailable


async def test_of_two_lists_that_are_equally_strict_the_older_rules(prober, ask, begin):
    old, new = await begin(), await begin(give_other_answers)
    await ask(old=old)
    await ask(old=old, new=new)
    await until(lambda: find(prober, "new").unavailable)
    assert await goes_on(prober, "old")


async def test_who_differs_is_told_with_what_differs(prober, ask, begin):
    await ask(one=await begin(), other=await begin(), odd=await begin(give_a_large_tolerance))
    await until(lambda: find(prober, "odd").unavailable)
    said = find(prober, "odd").unavailable
    assert "its list of known answers for model sha256:ab in float32 contradicts" in said
    assert "(3 answers, scores within 9, the other 3 answers, scores within 0.1)" in said


@pytest.mark.parametrize("ends", ["gone", "without a list", "of another model"])
async def test_a_list_that_nobody_gives_any_more_is_forgotten(prober, ask, begin, ends):
    odd, honest = await begin(give_a_small_tolerance), await begin()
    await ask(odd=odd, honest=honest)
    await until(lambda: find(prober, "honest").unavailable)  # of two the stricter rules
    if ends == "gone":
        await ask(honest=honest)
    elif ends == "without a list":
        odd.refusal, odd.said = 404, {"error": {"message": "there is no probes.json"}}
    else:
        odd.digest = "sha256:cd"
    await until(lambda: is_judged(prober, "honest"))
    assert await goes_on(prober, "honest")


async def test_answers_that_were_recorded_again_rule_once_all_workers_have_them(prober, ask, begin):
    worker = await begin(give_a_large_tolerance)
    await ask(w=worker)
    worker.tolerance = TOLERANCE
    worker.scores[1, 2, 3] = [-5.5, -0.25]
    await until(lambda: find(prober).wrong)
    assert "healthy devices stay within 0.1" in find(prober).detail


async def test_rounds_by_another_list_do_not_count_for_this_one(prober, begin):
    worker = await begin()
    prober.set_targets([target(worker, timeout=0.3)])
    await until(lambda: find(prober).right >= 1)
    worker.heard.clear()
    give_other_answers(worker)
    await until(lambda: find(prober).right == 0)
    assert (find(prober).wrong, find(prober).right_at) == (0, ())


async def test_slots_of_one_pod_have_one_voice(prober, ask, begin):
    slots = {f"p/slot-{n}": await begin(give_no_scores) for n in range(3)}
    await ask(**slots)
    await ask(**slots, honest=await begin())
    await until(lambda: all(find(prober, key).unavailable for key in slots))
    await until(lambda: is_judged(prober, "honest"))
    assert await goes_on(prober, "honest")
