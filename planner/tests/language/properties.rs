//! For any text: no panic, no runaway growth. For any sweep: as many instances as the product without what is excluded.

use std::collections::BTreeSet;
use std::fmt::Write;

use proptest::prelude::*;

use super::{compiled, root};

fn figure_8() -> String {
    fs_err::read_to_string(root().join("pipelines/figure-8.yaml")).expect("the pipeline is committed")
}

/// Reads the text and renders what is said of it.
fn survives(text: &str) {
    if let Err(errors) = compiled(text, &[]) {
        assert!(!errors.mistakes().is_empty());
        assert!(!errors.to_string().is_empty());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(400) })]

    #[test]
    fn any_text_is_read_or_refused(text in "\\PC*") {
        survives(&text);
    }

    #[test]
    fn any_yaml_like_text_is_read_or_refused(text in "[-a-c:{}\\[\\]&*!|>'\"#%@`,?$<~0-9. \n\r\t\u{e4}\u{feff}]{0,80}") {
        survives(&text);
        survives(&format!("chariot: 1\ntargets:\n  a:\n    recipe: command\n    {text}"));
    }

    #[test]
    fn any_change_to_figure_8_is_read_or_refused(
        at in 0.0..1.0f64,
        length in 0usize..30,
        with in "[-a-z:{}\\[\\]&*$ \n\u{e4}0-9]{0,8}",
    ) {
        let mut text = figure_8();
        let from = text.floor_char_boundary((at * text.len() as f64) as usize);
        let to = text.floor_char_boundary((from + length).min(text.len()));
        text.replace_range(from..to, &with);
        survives(&text);
    }

    #[test]
    fn any_line_of_figure_8_may_be_moved(from in 0usize..80, to in 0usize..80) {
        let text = figure_8();
        let mut lines: Vec<&str> = text.lines().collect();
        let line = lines.remove(from % lines.len());
        lines.insert(to % lines.len(), line);
        survives(&lines.join("\n"));
    }

    #[test]
    fn any_set_is_taken_or_refused(name in "[a-z.]{0,12}", value in "\\PC{0,20}") {
        if let Err(errors) = compiled(&figure_8(), &[(&name, &value)]) {
            assert!(!errors.to_string().is_empty());
        }
    }

    #[test]
    fn instances_are_the_product_without_excludes(
        sizes in prop::collection::vec(1usize..5, 1..4),
        excluded in prop::collection::vec((0usize..3, 0usize..5, 0usize..3, 0usize..5), 0..4),
    ) {
        let mut text = "chariot: 1\ntargets:\n  run:\n    recipe: command\n    outputs: [out]\n    argv: [run".to_owned();
        (0..sizes.len()).for_each(|axis| write!(text, ", '${{v{axis}}}'").expect("a string takes all"));
        text += "]\n    for:\n";
        for (axis, size) in sizes.iter().enumerate() {
            let values: Vec<String> = (0..*size).map(|v| format!("x{v}")).collect();
            writeln!(text, "      v{axis}: [{}]", values.join(", ")).expect("a string takes all");
        }
        let excluded: BTreeSet<_> =
            excluded.into_iter().map(|(a, x, b, y)| {
                let (a, b) = (a % sizes.len(), b % sizes.len());
                ((a, x % sizes[a]), (b, y % sizes[b]))
            }).filter(|(a, b)| a.0 != b.0).collect();
        if !excluded.is_empty() {
            text += "    exclude:\n";
        }
        for ((a, x), (b, y)) in &excluded {
            writeln!(text, "      - {{v{a}: x{x}, v{b}: x{y}}}").expect("a string takes all");
        }
        let mut expected = 0;
        let product: usize = sizes.iter().product();
        for mut number in 0..product {
            let point: Vec<usize> = sizes.iter().map(|size| { let v = number % size; number /= size; v }).collect();
            let is_out = excluded.iter().any(|((a, x), (b, y))| point[*a] == *x && point[*b] == *y);
            expected += usize::from(!is_out);
        }
        match compiled(&text, &[]) {
            Ok(steps) => prop_assert_eq!(steps.steps.len(), expected),
            Err(errors) => prop_assert!(expected == 0, "{}", errors),
        }
    }
}

#[test]
fn aliases_cannot_grow_without_bound() {
    let mut text = "chariot: 1\nparams:\n  a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for level in 1..12 {
        let before = format!("*a{}", level - 1);
        let items = [before.as_str(); 10].join(", ");
        writeln!(text, "  a{level}: &a{level} [{items}]").expect("a string takes all");
    }
    text += "targets: {a: {recipe: cluster}}\n";
    let message = compiled(&text, &[]).unwrap_err().to_string();
    assert!(message.contains("once aliases are written out"), "{message}");
}

#[test]
fn references_cannot_grow_without_bound() {
    for (open, item) in [("[", ""), ("", "text ")] {
        let mut text = "chariot: 1\nparams:\n  a0: ''\n".to_owned();
        for level in 1..24 {
            let before = format!("${{a{}}}", level - 1);
            let value = match open {
                "" => format!("'{item}{before}{before}'"),
                _ => format!("['{before}', '{before}']"),
            };
            writeln!(text, "  a{level}: {value}").expect("a string takes all");
        }
        text += "targets: {a: {recipe: command, argv: '${a23}', outputs: [x]}}\n";
        let message = compiled(&text, &[]).unwrap_err().to_string();
        assert!(message.contains("expected") && message.contains("at most"), "{message}");
    }
}

#[test]
fn depth_is_bounded() {
    let deep = format!("chariot: 1\nparams: {{a: {}{}}}\n", "[".repeat(5000), "]".repeat(5000));
    assert!(compiled(&deep, &[]).is_err());
    let mut chain = "chariot: 1\nparams:\n  a0: &a0 [1]\n".to_owned();
    for level in 1..2000 {
        writeln!(chain, "  a{level}: &a{level} [*a{}]", level - 1).expect("a string takes all");
    }
    assert!(compiled(&chain, &[]).unwrap_err().to_string().contains("levels"));
}
