"""The reader of compiled programs: on texts written by hand, where every number is known, and on small programs."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from rlhf_jax.parallel import compiled

TEXT = """\
HloModule jit_f, is_scheduled=true, num_partitions=8

%fused (p: f32[4,8]) -> f32[4,8] {
  %p = f32[4,8]{1,0} parameter(0)
  ROOT %n = f32[4,8]{1,0} negate(%p)
}

%all-reduce-scatter.1 (q: bf16[64,8]) -> bf16[8,8] {
  %q = bf16[64,8]{1,0} parameter(0)
  %whole = bf16[64,8]{1,0} all-reduce(%q), replica_groups=[1,8]<=[8], to_apply=%add
  ROOT %part = bf16[8,8]{1,0} dynamic-slice(%whole, %i, %z), dynamic_slice_sizes={8,8}
}

%inner_body (s: (s32[], f32[4,8])) -> (s32[], f32[4,8]) {
  %s = (s32[], f32[4,8]{1,0}) parameter(0)
  %x = f32[4,8]{1,0} get-tuple-element(%s), index=1
  %g = f32[16,8]{1,0} all-gather(%x), replica_groups={{0,1,2,3},{4,5,6,7}}, dimensions={0}
  ROOT %t = (s32[], f32[4,8]{1,0}) tuple(%i, %x)
}

%inner_condition (s: (s32[], f32[4,8])) -> pred[] {
  %s = (s32[], f32[4,8]{1,0}) parameter(0)
  %i = s32[] get-tuple-element(%s), index=0
  %n = s32[] constant(3)
  ROOT %less = pred[] compare(%i, %n), direction=LT
}

%outer_body (s: (s32[], f32[4,8])) -> (s32[], f32[4,8]) {
  %s = (s32[], f32[4,8]{1,0}) parameter(0)
  ROOT %w = (s32[], f32[4,8]{1,0}) while(%s), condition=%inner_condition, body=%inner_body
}

%outer_condition (s: (s32[], f32[4,8])) -> pred[] {
  %s = (s32[], f32[4,8]{1,0}) parameter(0)
  %here = s32[] get-tuple-element(%s), index=0
  %all = s32[] all-reduce(%here), replica_groups=mesh['a'=2,'b'=4] {'b', 'a':(1)2}, to_apply=%add
  ROOT %less = pred[] compare(%all, %here), direction=LT
}

ENTRY %main (a: f32[4,8], b: bf16[64,8]) -> f32[4,8] {
  %a = f32[4,8]{1,0:T(8,128)} parameter(0), metadata={op_name="a(b)"}
  %b = bf16[64,8]{1,0} parameter(1)
  %f = f32[4,8]{1,0:T(8,128)(2,1)} fusion(%a), kind=kLoop, calls=%fused
  %r = bf16[8,8]{1,0} fusion(%b), kind=kCustom, calls=%all-reduce-scatter.1
  %started = (f32[4,8]{1,0}, f32[32,8]{1,0}) all-gather-start(%f), replica_groups={}, dimensions={0}
  %done = f32[32,8]{1,0} all-gather-done(%started)
  %moved = f32[4,8]{1,0} collective-permute(%f), source_target_pairs={{0,1},{1,0}}
  %once = (s32[], f32[4,8]) while(%t), condition=%inner_condition, body=%inner_body, c={"known_trip_count":{"n":"5"}}
  ROOT %w = (s32[], f32[4,8]{1,0}) while(%t), condition=%outer_condition, body=%outer_body
}
"""


def test_collectives_are_counted_with_their_bytes_groups_and_loops():
    found = {(c.kind, c.depth): c for c in compiled.read(TEXT).collectives}
    reduced, gathered, moved = found["reduce-scatter", 0], found["all-gather", 0], found["collective-permute", 0]
    assert (reduced.group, reduced.bytes, reduced.sent) == (8, 8 * 8 * 2, 7 * 8 * 8 * 2)  # an eighth of what went in
    assert (gathered.group, gathered.bytes, gathered.sent) == (8, 32 * 8 * 4, 7 * 32 * 8 * 4 // 8)  # not its operand
    assert moved.sent == moved.bytes == 4 * 8 * 4
    noted, inside, asked = found["all-gather", 1], found["all-gather", 2], found["all-reduce", 1]
    assert (noted.turns, noted.counted, noted.group) == (5, True, 4)
    assert (inside.turns, inside.counted) == (3, False)  # three turns of a loop in one whose length nobody knows
    assert noted.sent == 5 * (16 * 8 * 4) * 3 // 4
    assert (asked.group, asked.sent) == (8, 2 * 4 * 7 // 8)


def test_an_exchange_in_several_parts_counts_once():
    """As TPUs do it: the same channel, started in one fusion and finished in another."""
    part = "all-gather(%x), channel_id=7, replica_groups={{0,1,2,3},{4,5,6,7}}, dimensions={0}"
    text = TEXT.replace("all-gather(%x), replica_groups={{0,1,2,3},{4,5,6,7}}, dimensions={0}", part)
    line = next(line for line in text.splitlines() if "channel_id" in line)
    twice = compiled.read(text.replace(line, line + "\n" + line.replace("%g", "%h")))
    assert twice.kinds() == compiled.read(text).kinds() == compiled.read(TEXT).kinds()


def test_they_are_summed_up_by_kind():
    program = compiled.read(TEXT)
    assert program.deepest == 2
    turns, sent = program.kinds()["all-gather"]
    assert turns == 1 + 5 + 3
    assert sent == sum(c.sent for c in program.collectives if c.kind == "all-gather")


def test_arrays_are_those_that_take_memory():
    arrays = compiled.read(TEXT).arrays
    assert arrays[compiled.Array("f32", (4, 8))] == 2  # a fusion, a permutation; not what a gather starts from
    assert compiled.Array("bf16", (64, 8)) not in arrays  # a parameter, and the inside of a fusion
    assert compiled.Array("bf16", (8, 8)).bytes == 128
    assert str(compiled.Array("pred", (3,))) == "pred[3]"


def test_what_is_no_compiled_program_is_refused():
    with pytest.raises(ValueError, match="found no ENTRY"):
        compiled.read("hello")


def test_a_product_divided_among_devices():
    """Each of 8 devices has an eighth of the contraction, so that the products are added up; and then all are equal."""
    mesh = jax.make_mesh((8,), ("x",), axis_types=(AxisType.Auto,))
    by_column, by_row = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in ((None, "x"), ("x", None)))
    whole = NamedSharding(mesh, PartitionSpec())
    product = jax.jit(lambda a, b: a @ b, in_shardings=(by_column, by_row), out_shardings=whole)
    made = product.lower(jnp.ones((4, 64)), jnp.ones((64, 2))).compile()
    program = compiled.read(made.as_text())
    (added,) = program.collectives
    assert (added.kind, added.group, added.bytes, added.turns) == ("all-reduce", 8, 4 * 2 * 4, 1)
    assert not program.as_large_as(4 * 64)
    assert compiled.memory(made).arguments == (4 * 64 + 64 * 2) * 4 // 8


def test_a_loop_runs_its_exchange_as_often_as_it_turns():
    mesh = jax.make_mesh((8,), ("x",), axis_types=(AxisType.Auto,))
    divided = NamedSharding(mesh, PartitionSpec("x"))

    def body(_, x):
        return jnp.cos(x) * jnp.sum(jnp.sin(x))

    made = jax.jit(lambda x: jax.lax.fori_loop(0, 6, body, x), in_shardings=divided).lower(jnp.ones(64)).compile()
    (summed,) = compiled.read(made.as_text()).collectives
    assert (summed.turns, summed.depth, summed.counted) == (6, 1, True)


PARTS = """\
HloModule jit_g, is_scheduled=true, num_partitions=4

%begin (p: bf16[8,8]) -> (bf16[8,8], bf16[32,8]) {
  %p = bf16[8,8]{1,0} parameter(0)
  %g = bf16[32,8]{1,0} all-gather(%p), channel_id=7, replica_groups={{0,1,2,3}}, dimensions={0}
  ROOT %c = (bf16[8,8], bf16[32,8]) custom-call(%g), custom_call_target="AsyncCollectiveStart"
}

%go_on (q: bf16[8,8]) -> bf16[32,8] {
  %q = bf16[8,8]{1,0} parameter(0)
  ROOT %h = bf16[32,8]{1,0} all-gather(%q), channel_id=7, replica_groups={{0,1,2,3}}, dimensions={0}
}

%body (s: (bf16[8,8], u32[])) -> (bf16[8,8], u32[]) {
  %s = (bf16[8,8]{1,0}, u32[]) parameter(0)
  %two = u32[] constant(2)
  %x = bf16[8,8]{1,0} get-tuple-element(%s), index=0
  %f = bf16[32,8]{1,0} fusion(%x), kind=kCustom, calls=%go_on
  %m = bf16[8,8]{1,0} collective-permute(%x), channel_id=8, source_target_pairs={{0,1},{1,2},{2,3},{3,0}}
  %i = u32[] get-tuple-element(%s), index=1
  %n = u32[] add(%i, %two)
  %kept = u32[] copy(%n)
  ROOT %t = (bf16[8,8]{1,0}, u32[]) tuple(%m, %kept)
}

%condition (s: (bf16[8,8], u32[])) -> pred[] {
  %s = (bf16[8,8]{1,0}, u32[]) parameter(0)
  %most = u32[] constant(7)
  %i = u32[] get-tuple-element(%s), index=1
  ROOT %less = pred[] compare(%i, %most), direction=LT
}

ENTRY %main (a: bf16[8,8]) -> bf16[8,8] {
  %a = bf16[8,8]{1,0} parameter(0)
  %b = (bf16[8,8], bf16[32,8]) fusion(%a), kind=kCustom, calls=%begin
  ROOT %w = (bf16[8,8]{1,0}, u32[]) while(%t), condition=%condition, body=%body
}
"""


def test_an_exchange_that_is_hidden_behind_a_loop_is_one_exchange():
    """A TPU's program begins it, goes on with it beside other work, and all of its parts bear one number."""
    found = compiled.read(PARTS).kinds()
    assert found["all-gather"] == (1, 3 * 32 * 8 * 2 // 4)


@pytest.mark.parametrize(
    ("dtype", "size"), [("pred", 1), ("s32", 4), ("bf16", 2), ("f8e4m3fn", 1), ("f8e4m3", 1), ("c64", 8)]
)
def test_numbers_of_every_type_have_their_bytes(dtype, size):
    assert compiled.Array(dtype, (3, 5)).bytes == 15 * size
    text = PARTS.replace("bf16[8,8]{1,0} collective-permute", f"{dtype}[8,8]{{1,0}} collective-permute")
    assert compiled.read(text).kinds()["collective-permute"][1] == 4 * 64 * size


def test_a_loop_whose_counter_goes_up_by_two_turns_half_as_often():
    assert compiled.read(PARTS).kinds()["collective-permute"] == (4, 4 * 8 * 8 * 2)
