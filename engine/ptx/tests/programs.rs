//! Small programs in PTX: what instructions do, and which mistakes are found.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

use chariot_ptx::{Argument, Fault, LaunchError, Memory, ParseError, Shape, parse};
use half::{bf16, f16};

/// A kernel `k(in, out)` of this body, where %r1 is the thread, %rd1 and %rd2 are the addresses of its word of `in` and `out`.
fn kernel(body: &str) -> String {
    format!(
        ".version 8.8
        .target sm_80
        .address_size 64
        .extern .shared .align 16 .b8 dynamic[];
        .visible .entry k(.param .u64 k_param_0, .param .u64 k_param_1)
        .maxntid 128, 1, 1
        {{
            .reg .pred %p<9>;
            .reg .b16 %rs<9>;
            .reg .f32 %f<20>;
            .reg .b32 %r<40>;
            .reg .b64 %rd<20>;
            .shared .align 4 .b8 room[512];
            .shared .align 2 .b8 tiles[512];
            ld.param.u64 %rd1, [k_param_0];
            ld.param.u64 %rd2, [k_param_1];
            mov.u32 %r1, %tid.x;
            mul.wide.u32 %rd3, %r1, 4;
            add.s64 %rd1, %rd1, %rd3;
            add.s64 %rd2, %rd2, %rd3;
            {body}
            ret;
        }}"
    )
}

/// `out` of one block, a thread a word of it.
fn run(body: &str, input: &[u32], threads: u32) -> Result<Vec<u32>, Fault> {
    let module = parse(&kernel(body)).unwrap();
    let mut memory = Memory::default();
    let (there, out) = (memory.put(input), memory.room(4 * threads as usize));
    let shape = Shape { blocks: [1, 1, 1], threads: [threads, 1, 1], shared_bytes: 256 };
    match module.launch("k", shape, &[there, out].map(Argument::Buffer), &mut memory) {
        Ok(()) => memory.take(out),
        Err(LaunchError::Fault { fault, .. }) => Err(fault),
        Err(other) => panic!("{other}"),
    }
}

/// %r9 of one thread, with up to four words of input in %r2 to %r5, %f2 to %f5.
fn word(body: &str, input: &[u32]) -> u32 {
    let loads = (0..input.len()).map(|i| {
        let at = format!("[%rd1+{}]", 4 * i);
        format!("ld.global.u32 %r{}, {at}; ld.global.f32 %f{}, {at};\n", i + 2, i + 2)
    });
    let body = format!("{}{body}\nst.global.u32 [%rd2], %r9;", loads.collect::<String>());
    run(&body, input, 1).unwrap()[0]
}

#[test]
fn integers() {
    let minus = |value: i32| (-value) as u32;
    let cases: [(&str, &[u32], u32); 31] = [
        ("add.s32 %r9, %r2, %r3;", &[u32::MAX, 3], 2),
        ("sub.s32 %r9, %r2, %r3;", &[1, 3], minus(2)),
        ("mul.lo.s32 %r9, %r2, %r3;", &[0x8000_0001, 6], 6),
        ("mul.hi.u32 %r9, %r2, %r3;", &[u32::MAX, u32::MAX], u32::MAX - 1),
        ("mul.hi.s32 %r9, %r2, %r3;", &[u32::MAX, 5], u32::MAX),
        ("mov.u64 %rd8, -1; mul.hi.u64 %rd9, %rd8, %rd8; cvt.u32.u64 %r9, %rd9;", &[], u32::MAX - 1),
        (
            "mov.u64 %rd8, -1; div.u64 %rd9, %rd8, 5; shr.u64 %rd9, %rd9, 32; cvt.u32.u64 %r9, %rd9;",
            &[],
            0x3333_3333,
        ),
        (
            "mul.wide.s32 %rd9, %r2, %r3; shr.s64 %rd9, %rd9, 3; cvt.u32.u64 %r9, %rd9;",
            &[minus(8), 5],
            minus(5),
        ),
        ("mul.wide.u32 %rd9, %r2, 8; shr.u64 %rd9, %rd9, 32; cvt.u32.u64 %r9, %rd9;", &[u32::MAX], 7),
        ("mad.lo.s32 %r9, %r2, %r3, %r4;", &[3, minus(4), 5], minus(7)),
        (
            "mov.u64 %rd8, -2; mad.wide.s32 %rd9, %r2, %r3, %rd8; cvt.u32.u64 %r9, %rd9;",
            &[minus(3), 4],
            minus(14),
        ),
        ("div.s32 %r9, %r2, %r3;", &[minus(7), 2], minus(3)),
        ("div.u32 %r9, %r2, %r3;", &[minus(7), 2], 0x7fff_fffc),
        ("rem.s32 %r9, %r2, %r3;", &[minus(7), 2], minus(1)),
        ("rem.u32 %r9, %r2, %r3;", &[7, 4], 3),
        ("min.s32 %r9, %r2, %r3;", &[minus(1), 1], minus(1)),
        ("max.u32 %r9, %r2, %r3;", &[minus(1), 1], minus(1)),
        ("neg.s32 %r9, %r2;", &[5], minus(5)),
        ("abs.s32 %r9, %r2;", &[minus(5)], 5),
        ("and.b32 %r9, %r2, %r3;", &[12, 10], 8),
        ("or.b32 %r9, %r2, %r3;", &[12, 10], 14),
        ("xor.b32 %r9, %r2, %r3;", &[12, 10], 6),
        ("not.b32 %r9, %r2;", &[0], u32::MAX),
        ("shl.b32 %r9, %r2, %r3;", &[3, 31], 1 << 31),
        ("shl.b32 %r9, %r2, %r3;", &[3, 32], 0),
        ("shr.u32 %r9, %r2, %r3;", &[1 << 31, 31], 1),
        ("shr.s32 %r9, %r2, %r3;", &[1 << 31, 99], u32::MAX),
        ("bfi.b32 %r9, %r2, %r3, 3, 4;", &[0xfa, 0x9995], 0x99d5),
        ("bfi.b32 %r9, %r2, %r3, 30, 29;", &[0x6, 0x4000_0001], 0x8000_0001),
        ("setp.lo.u32 %p1, %r2, %r3; selp.b32 %r9, 1, 2, %p1;", &[1, minus(1)], 1),
        ("setp.lt.s32 %p1, %r2, %r3; selp.b32 %r9, 1, 2, %p1;", &[1, minus(1)], 2),
    ];
    for (body, input, expected) in cases {
        assert_eq!(word(body, input), expected, "{body}");
    }
    assert_eq!(run("mov.u32 %r2, 0; div.s32 %r9, 1, %r2;", &[0], 1), Err(Fault::DivisionByZero));
}

#[test]
fn conversions() {
    let float = f32::to_bits;
    let cases: [(&str, &[u32], u32); 19] = [
        ("cvt.s64.s32 %rd9, %r2; shr.u64 %rd9, %rd9, 40; cvt.u32.u64 %r9, %rd9;", &[u32::MAX], 0x00ff_ffff),
        ("cvt.u64.u32 %rd9, %r2; shr.u64 %rd9, %rd9, 40; cvt.u32.u64 %r9, %rd9;", &[u32::MAX], 0),
        ("cvt.u16.u32 %rs1, %r2; cvt.u32.u16 %r9, %rs1;", &[0x0012_8765], 0x8765),
        ("cvt.u16.u32 %rs1, %r2; cvt.s32.s16 %r9, %rs1;", &[0x0012_8765], 0xffff_8765),
        // A longer register keeps the sign of a shorter type.
        ("cvt.s16.s32 %r9, %r2;", &[0x0012_8765], 0xffff_8765),
        ("cvt.rn.f32.s32 %f9, %r2; mov.b32 %r9, %f9;", &[-3_i32 as u32], float(-3.0)),
        ("cvt.rn.f32.u32 %f9, %r2; mov.b32 %r9, %f9;", &[u32::MAX], float(4_294_967_296.0)),
        ("cvt.rzi.s32.f32 %r9, %f2;", &[float(-2.9)], -2_i32 as u32),
        ("cvt.rzi.s32.f32 %r9, %f2;", &[float(1e20)], i32::MAX as u32),
        ("cvt.rzi.u32.f32 %r9, %f2;", &[float(-2.9)], 0),
        ("cvt.rzi.s32.f32 %r9, %f2;", &[float(f32::NAN)], 0),
        ("cvt.sat.f32.f32 %f9, %f2; mov.b32 %r9, %f9;", &[float(1.5)], float(1.0)),
        ("cvt.sat.f32.f32 %f9, %f2; mov.b32 %r9, %f9;", &[float(-0.0)], 0),
        ("cvt.sat.f32.f32 %f9, %f2; mov.b32 %r9, %f9;", &[float(f32::NAN)], 0),
        ("cvt.rn.bf16x2.f32 %r9, %f2, %f3;", &[0x3f80_8000, 0x4001_8000], 0x3f80_4002),
        ("cvt.rn.f16x2.f32 %r9, %f2, %f3;", &[float(1.0), float(f32::NAN)], 0x3c00_7fff),
        ("cvt.rn.bf16.f32 %rs1, %f2; cvt.f32.bf16 %f9, %rs1; mov.b32 %r9, %f9;", &[0x3f81_8000], 0x3f82_0000),
        ("mov.b32 {%rs1, %rs2}, %r2; mov.b32 %r9, {%rs2, %rs1};", &[0x1234_5678], 0x5678_1234),
        ("mov.b64 %rd9, {%r2, %r3}; mov.b64 {%r8, %r9}, %rd9;", &[1, 2], 2),
    ];
    for (body, input, expected) in cases {
        assert_eq!(word(body, input), expected, "{body}");
    }
}

#[test]
fn guards_predicates_and_branches() {
    let body = "mov.u32 %r9, 0;
        mov.pred %p3, -1;
        setp.gt.f32 %p1, %f2, %f3;
        and.pred %p2, %p1, %p3;
        @%p2 add.s32 %r9, %r9, 1;
        @!%p2 add.s32 %r9, %r9, 2;
        @!%p1 bra $end;
        { .reg .b32 %r9; mov.u32 %r9, 100; }
        add.s32 %r9, %r9, 4;
        $end:
        add.s32 %r9, %r9, 8;";
    assert_eq!(word(body, &[2.0, 1.0].map(f32::to_bits)), 1 + 4 + 8);
    assert_eq!(word(body, &[1.0, 1.0].map(f32::to_bits)), 2 + 8);
    assert_eq!(word(body, &[f32::NAN, 1.0].map(f32::to_bits)), 2 + 8);
}

#[test]
fn vectors_and_spaces() {
    // In by a vector, through shared memory by a generic address, out of a short.
    let body = "ld.global.v4.u32 {%r2, %r3, %r4, %r5}, [%rd1];
        mov.u64 %rd4, dynamic;
        st.shared.v2.b32 [%rd4+8], {%r4, %r5};
        cvta.shared.u64 %rd5, %rd4;
        ld.u32 %r6, [%rd5+12];
        cvta.to.shared.u64 %rd6, %rd5;
        cvt.u32.u64 %r7, %rd6;
        ld.shared.s16 %r8, [%r7+8];
        add.s32 %r9, %r6, %r8;
        st.global.b32 [%rd2], %r9;";
    assert_eq!(run(body, &[1, 2, 0x0003_ffff, 70], 1), Ok(vec![69]));
}

/// What 32 lanes get of 100 and their number.
fn shuffled(mode: &str, b: u32, c: u32) -> Vec<u32> {
    let body = format!(
        "add.s32 %r2, %r1, 100;
        shfl.sync.{mode}.b32 %r3|%p1, %r2, {b}, {c}, -1;
        selp.b32 %r4, 0, 1000, %p1;
        add.s32 %r3, %r3, %r4;
        st.global.u32 [%rd2], %r3;"
    );
    run(&body, &[0], 32).unwrap()
}

#[test]
fn shuffles() {
    let from = |other: fn(u32) -> u32| (0..32).map(|lane| 100 + other(lane)).collect::<Vec<_>>();
    assert_eq!(shuffled("bfly", 5, 31), from(|lane| lane ^ 5));
    assert_eq!(shuffled("idx", 7, 31), from(|_| 7));
    // Beyond the end a lane keeps its own, and its predicate is false.
    assert_eq!(shuffled("down", 3, 31), from(|lane| if lane < 29 { lane + 3 } else { 1000 + lane }));
    assert_eq!(shuffled("up", 3, 0), from(|lane| if lane < 3 { 1000 + lane } else { lane - 3 }));
    // Segments of 8 lanes.
    assert_eq!(shuffled("down", 1, 0x181f), from(|lane| if lane % 8 == 7 { 1000 + lane } else { lane + 1 }));
    assert_eq!(shuffled("idx", 2, 0x181f), from(|lane| lane / 8 * 8 + 2));
}

#[test]
fn barriers_of_warp_and_block() {
    let body = |barrier: &str| {
        format!(
            "mul.lo.s32 %r2, %r1, 4;
            mov.u32 %r3, room;
            add.s32 %r3, %r3, %r2;
            st.shared.u32 [%r3], %r1;
            {barrier}
            xor.b32 %r4, %r2, 4;
            mov.u32 %r5, room;
            add.s32 %r5, %r5, %r4;
            ld.shared.u32 %r6, [%r5];
            st.global.u32 [%rd2], %r6;"
        )
    };
    let expected: Vec<u32> = (0..64).map(|thread| thread ^ 1).collect();
    assert_eq!(run(&body("bar.sync 0;"), &[0], 64), Ok(expected.clone()));
    assert_eq!(run(&body("bar.warp.sync -1;"), &[0], 64), Ok(expected));
    // Thread 1 comes after thread 0, and would not see the mistake that thread 0 sees.
    let unwritten = Fault::Unwritten { region: "room".to_owned(), offset: 4 };
    assert_eq!(run(&body(""), &[0], 64), Err(unwritten));
}

#[test]
fn a_race_is_found_in_whatever_order_threads_run() {
    let body = "st.shared.u32 [room], %r1; st.global.u32 [%rd2], %r1;";
    let race = Fault::Race { region: "room".to_owned(), offset: 0, thread: 0, block: 0, did: "wrote it" };
    assert_eq!(run(body, &[0], 2), Err(race));
    let body = "ld.global.u32 %r2, [%rd1]; setp.eq.s32 %p1, %r1, 1; @%p1 st.global.u32 [%rd1+-4], %r1;";
    let race = Fault::Race { region: "buffer 1".to_owned(), offset: 0, thread: 0, block: 0, did: "read it" };
    assert_eq!(run(body, &[0, 0], 2), Err(race));
}

#[test]
fn atomic_additions_are_one_after_the_other_and_no_race_among_themselves() {
    // The first thread clears; all add, of 64 bits and of 32 in turn; all read the sum of both.
    let body = |first: &str, last: &str| {
        format!(
            "setp.eq.s32 %p1, %r1, 0;
            @%p1 st.shared.v4.u32 [room], {{%r1, %r1, %r1, %r1}};
            {first}
            mov.u32 %r2, room;
            cvt.u64.u32 %rd4, %r2;
            cvta.shared.u64 %rd5, %rd4;
            mov.u64 %rd6, 0x80000001;
            atom.shared.add.u64 %rd7, [%r2+8], %rd6;
            red.shared.add.u64 [room+8], %rd7;
            atom.add.u32 %r3, [%rd5], 3;
            {last}
            ld.shared.v2.u32 {{%r4, %r5}}, [room];
            ld.shared.u64 %rd8, [room+8];
            setp.ne.u64 %p2, %rd8, 0;
            selp.b32 %r6, %r4, 0, %p2;
            st.global.u32 [%rd2], %r6;"
        )
    };
    let barrier = "bar.sync 0;";
    assert_eq!(run(&body(barrier, barrier), &[0], 64), Ok(vec![3 * 64; 64]));
    let race = |did| Fault::Race { region: "room".to_owned(), offset: 8, thread: 0, block: 0, did };
    assert_eq!(run(&body("", barrier), &[0], 64), Err(race("wrote it")));
    let Err(Fault::Race { did: "read it", .. }) = run(&body(barrier, ""), &[0], 64) else {
        panic!("the first thread reads while others have not added yet");
    };
    // What was there, and its sum: of one thread.
    let one = "st.shared.u32 [room], 5; st.shared.u32 [room+4], 0; mov.u64 %rd6, 0xffffffff;
        atom.shared.add.u64 %rd7, [room], %rd6; ld.shared.v2.u32 {%r2, %r3}, [room];
        cvt.u32.u64 %r4, %rd7; mad.lo.s32 %r9, %r4, 100, %r2; mad.lo.s32 %r9, %r3, 10, %r9;";
    assert_eq!(word(one, &[]), 500 + 4 + 10);
    assert_eq!(
        run("red.shared.add.u32 [room], 1;", &[0], 1),
        Err(Fault::Unwritten { region: "room".to_owned(), offset: 0 })
    );
}

#[test]
fn wrong_accesses_are_found() {
    let outside = |offset, size| Fault::OutOfBounds { region: "buffer 1".to_owned(), bytes: 8, offset, size };
    let cases = [
        ("ld.global.u32 %r2, [%rd1+8];", outside(8, 4)),
        ("ld.global.u32 %r2, [%rd1+-4];", outside(-4, 4)),
        ("ld.global.v4.u32 {%r2, %r3, %r4, %r5}, [%rd1];", outside(0, 16)),
        ("ld.global.u32 %r2, [0];", Fault::NoMemory { address: 0 }),
        ("ld.shared.u32 %r2, [0];", Fault::NoMemory { address: 0 }),
        ("ld.shared.u32 %r2, [room];", Fault::Unwritten { region: "room".to_owned(), offset: 0 }),
        (
            "st.shared.u32 [room+512], 0;",
            Fault::OutOfBounds { region: "room".to_owned(), bytes: 512, offset: 512, size: 4 },
        ),
        ("add.s32 %r2, %r3, 1;", Fault::UnwrittenRegister { name: "%r3".to_owned() }),
    ];
    for (body, fault) in cases {
        assert_eq!(run(body, &[1, 2], 1), Err(fault), "{body}");
    }
    let found = run("ld.global.v2.u32 {%r2, %r3}, [%rd1+4];", &[1, 2, 3, 4], 1).unwrap_err();
    assert!(matches!(found, Fault::Misaligned { size: 8, .. }), "{found}");
}

#[test]
fn an_endless_loop_ends() {
    assert_eq!(run("$again: bra $again;", &[0], 1), Err(Fault::Endless(50_000_000)));
}

#[test]
fn threads_that_do_not_meet_are_named() {
    let module = parse(&kernel("setp.lt.u32 %p1, %r1, 3;\n@%p1 bar.sync 0;")).unwrap();
    let mut memory = Memory::default();
    let (there, out) = (memory.put(&[0_u32]), memory.room(32));
    let shape = Shape { blocks: [1, 1, 1], threads: [8, 1, 1], shared_bytes: 0 };
    let error = module.launch("k", shape, &[there, out].map(Argument::Buffer), &mut memory).unwrap_err();
    let expected =
        "kernel k, block 0, thread 0, line 22 `@%p1 bar.sync 0;`: divergence: thread 3 has returned";
    assert_eq!(error.to_string(), expected);
    let shuffle = "shfl.sync.bfly.b32 %r2, %r1, 1, 31, -1;";
    let divergent = |other: &str| {
        let body = format!("setp.ge.u32 %p1, %r1, 31; @%p1 bra $other;\n{shuffle}\n{other}\n");
        run(&body, &[0], 32).unwrap_err()
    };
    let found = divergent("$other:");
    assert_eq!(found, Fault::Divergence { thread: 31, place: "has returned".to_owned() });
    let found = divergent(&format!("$other:\n{shuffle}"));
    let place = format!("waits in line 24 `{shuffle}`");
    assert_eq!(found, Fault::Divergence { thread: 31, place });
    assert_eq!(run(shuffle, &[0], 31), Err(Fault::Lanes { mask: u32::MAX }));
    let absent = Fault::AbsentLane { lane: 2, mask: 3 };
    assert_eq!(run("shfl.sync.bfly.b32 %r2, %r1, 2, 31, 3;", &[0], 2), Err(absent));
}

#[test]
fn arguments_are_checked() {
    let module = parse(&kernel("")).unwrap();
    let shape = Shape { blocks: [1, 1, 1], threads: [1, 1, 1], shared_bytes: 0 };
    let launch = |name: &str, arguments: &[Argument]| {
        module.launch(name, shape, arguments, &mut Memory::default()).unwrap_err().to_string()
    };
    assert_eq!(launch("g", &[]), "no kernel g");
    assert_eq!(launch("k", &[Argument::Null]), "kernel k: expected 2 arguments, found 1");
    let found = launch("k", &[Argument::Null, Argument::I32(1)]);
    assert_eq!(found, "kernel k, argument 1: expected 8 bytes, found 4");
}

#[test]
fn what_is_not_understood_is_named() {
    let cases = [
        ("lop3.b32 %r9, %r1, %r1, %r1, 1;", "unknown instruction `lop3.b32`"),
        (".local .b8 depot[4];", "unknown directive `.local`"),
        ("mov.u32 %r99, 1;", "unknown name `%r99`"),
        ("bra $nowhere;", "unknown name `$nowhere`"),
        ("mov.u32 %rd1, 1;", "`mov.u32`, operand 0: expected PackedTarget(32), found `%rd1`"),
        ("mul.wide.s32 %r1, %r1, 4;", "`mul.wide.s32`, operand 0: expected Target(64), found `%r1`"),
        ("st.global.u64 [%rd1], %r1;", "`st.global.u64`, operand 1: expected Sources(1, 64), found `%r1`"),
        ("ld.global.u32 %r1, %rd1;", "`ld.global.u32`, operand 1: expected Address, found `%rd1`"),
        ("add.s32 %r1, %r1;", "expected `,`, found `;`"),
        (
            "cp.async.cg.shared.global [room], [%rd1], 8;",
            "`cp.async.cg.shared.global`, operand 2: expected Number([16]), found `8`",
        ),
        ("$a: $a:", "`$a` stands here a second time"),
    ];
    for (body, mistake) in cases {
        let error = parse(&kernel(&format!("\n{body}"))).unwrap_err();
        assert_eq!(error, ParseError { line: 22, mistake: mistake.to_owned() });
    }
    let error = parse(".version 8.8\n.global .b8 table[4];").unwrap_err();
    assert_eq!(error.to_string(), "line 2: unknown directive `.global`");
    assert!(parse(kernel("").trim_end_matches('}')).is_err(), "a body without an end");
}

#[test]
fn copies_come_when_they_are_waited_for() {
    // Each thread copies its 16 bytes, the first of two groups, and reads the other thread's word.
    let body = |wait: &str| {
        format!(
            "mul.wide.u32 %rd4, %r1, 12;
            add.s64 %rd1, %rd1, %rd4;
            mov.u32 %r2, room;
            shl.b32 %r3, %r1, 4;
            add.s32 %r3, %r3, %r2;
            cp.async.cg.shared.global [%r3], [%rd1], 16, 8;
            cp.async.commit_group;
            cp.async.ca.shared.global [%r3+32], [%rd1], 4;
            cp.async.commit_group;
            {wait}
            xor.b32 %r3, %r3, 16;
            ld.shared.v4.u32 {{%r4, %r5, %r6, %r7}}, [%r3];
            add.s32 %r4, %r4, %r5;
            or.b32 %r6, %r6, %r7;
            add.s32 %r4, %r4, %r6;
            st.global.u32 [%rd2], %r4;"
        )
    };
    let input = [1, 2, 77, 77, 30, 40, 77, 77];
    assert_eq!(run(&body("cp.async.wait_group 1; bar.sync 0;"), &input, 2), Ok(vec![70, 3]));
    assert_eq!(run(&body("cp.async.wait_all; bar.sync 0;"), &input, 2), Ok(vec![70, 3]));
    let unwritten = |offset| Err(Fault::Unwritten { region: "room".to_owned(), offset });
    assert_eq!(run(&body("cp.async.wait_group 2; bar.sync 0;"), &input, 2), unwritten(16));
    let race = Fault::Race { region: "room".to_owned(), offset: 0, thread: 0, block: 0, did: "wrote it" };
    assert_eq!(run(&body("bar.sync 0; cp.async.wait_group 0;"), &input, 2), unwritten(16));
    let late = body("setp.eq.s32 %p1, %r1, 0; bar.sync 0; cp.async.wait_all; @%p1 bra $end;").replace(
        "st.global.u32 [%rd2], %r4;",
        "st.global.u32 [%rd2], %r4; ret; $end: st.global.u32 [%rd2], %r1;",
    );
    assert_eq!(run(&late, &input, 2), Err(race));
}

/// D[16, 8] = A[16, 16] B[16, 8] + C, by one mma: rows' pairs come from memory as PTX's tables of fragments say.
fn tiles_multiply(dtype: &str, bits: fn(f32) -> u16) {
    let value = |i: u32| ((i * 7919 + 13) % 31) as f32 / 8.0 - 1.5;
    let a: Vec<f32> = (0..256).map(value).collect();
    let b: Vec<f32> = (0..128).map(|i| value(i + 1000)).collect();
    let c: Vec<f32> = (0..128).map(|i| value(i + 2000)).collect();
    let pair = |low: f32, high: f32| u32::from(bits(high)) << 16 | u32::from(bits(low));
    // Ten words a lane: four of A, two of B, four of C. PTX ISA, "Matrix Fragments for mma.m16n8k16 with floating point type".
    let places = |lane: usize| {
        let (group, low) = (lane >> 2, lane % 4 * 2);
        [(group, low), (group, low + 1), (group + 8, low), (group + 8, low + 1)]
    };
    let mut input = Vec::new();
    for lane in 0..32 {
        let (group, inside) = (lane >> 2, lane % 4);
        let of_a = |row: usize, column: usize| pair(a[row * 16 + column], a[row * 16 + column + 1]);
        let of_b = |row: usize| pair(b[row * 8 + group], b[(row + 1) * 8 + group]);
        let (low, high) = (inside * 2, inside * 2 + 8);
        input.extend([of_a(group, low), of_a(group + 8, low), of_a(group, high), of_a(group + 8, high)]);
        input.extend([of_b(low), of_b(high)]);
        input.extend(places(lane).map(|(row, column)| c[row * 8 + column].to_bits()));
    }
    for wanted in 0..4 {
        let loads: String =
            (0..10).map(|i| format!("ld.global.u32 %r{}, [%rd1+{}];\n", 10 + i, 4 * i)).collect();
        let body = format!(
            "mul.wide.u32 %rd4, %r1, 36;
            add.s64 %rd1, %rd1, %rd4;
            {loads}mma.sync.aligned.m16n8k16.row.col.f32.{dtype}.{dtype}.f32 {{%f1, %f2, %f3, %f4}}, {{%r10, %r11, %r12, %r13}}, {{%r14, %r15}}, {{%r16, %r17, %r18, %r19}};
            st.global.f32 [%rd2], %f{};",
            wanted + 1
        );
        let found = run(&body, &input, 32).unwrap();
        for (lane, bits) in found.into_iter().enumerate() {
            let (row, column) = places(lane)[wanted];
            let product: f32 = (0..16).map(|k| a[row * 16 + k] * b[k * 8 + column]).sum();
            assert_eq!(f32::from_bits(bits), product + c[row * 8 + column], "{row}, {column}");
        }
    }
}

#[test]
fn tiles_of_both_dtypes_multiply() {
    tiles_multiply("bf16", |value| bf16::from_f32(value).to_bits());
    tiles_multiply("f16", |value| f16::from_f32(value).to_bits());
}

/// Four 8 x 8 tiles of numbers, a row of tile t being 16 bytes: lane l gets what `ldmatrix` says.
#[test]
fn tiles_are_loaded() {
    let load = |opcode: &str, wanted: usize| {
        let body = format!(
            "mov.u32 %r2, tiles;
            shl.b32 %r3, %r1, 4;
            add.s32 %r3, %r3, %r2;
            shl.b32 %r4, %r1, 3;
            cvt.u16.u32 %rs1, %r4;
            {}
            bar.warp.sync -1;
            ldmatrix.sync.aligned.m8n8.{opcode}.b16 {{%r5, %r6, %r7, %r8}}, [%r3];
            st.global.u32 [%rd2], %r{};",
            (0..8)
                .map(|i| format!("st.shared.b16 [%r3+{}], %rs1; add.s16 %rs1, %rs1, 1;\n", 2 * i))
                .collect::<String>(),
            wanted + 5
        );
        run(&body, &[0], 32).unwrap()
    };
    // Value `64 tile + 8 row + column` lies in tile, row, column.
    for tile in 0..4 {
        let number = |row: u32, column: u32| 64 * tile as u32 + 8 * row + column;
        let pair = |low: u32, high: u32| high << 16 | low;
        let rows = |lane: u32| pair(number(lane / 4, lane % 4 * 2), number(lane / 4, lane % 4 * 2 + 1));
        let columns = |lane: u32| pair(number(lane % 4 * 2, lane / 4), number(lane % 4 * 2 + 1, lane / 4));
        assert_eq!(load("x4.shared", tile), (0..32).map(rows).collect::<Vec<_>>());
        assert_eq!(load("x4.trans.shared", tile), (0..32).map(columns).collect::<Vec<_>>());
    }
}
