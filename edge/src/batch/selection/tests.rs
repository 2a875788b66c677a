use std::fmt::Write as _;
use std::time::Instant;

use super::*;
use crate::governance::testing::catalog;

fn defaults() -> Defaults {
    Defaults { campaign: None, slot: None, seeds: SeedsOfEach::OWN }
}

fn csv(text: &str) -> Result<Vec<(String, Option<u32>)>, RowFaults> {
    let selected = of_csv(&catalog(), text.as_bytes(), &defaults())?;
    Ok(selected.items.into_iter().map(|item| (item.picture.into(), item.seed)).collect())
}

fn faults(text: &str) -> Vec<(u64, String, String)> {
    let faults = csv(text).expect_err("faults");
    assert_eq!(faults.total, faults.first.len() as u64);
    faults.first.into_iter().map(|RowFault { row, column, detail }| (row, column, detail)).collect()
}

#[test]
fn rows_name_pictures_and_what_they_leave_out_is_the_default() {
    let found = csv("slot,product,campaign,colour\nthumb,mug,studio,red\nthumb,MUG,studio,red\nthumb,vase,studio,\n");
    let names: Vec<String> = found.unwrap().into_iter().map(|(name, _)| name).collect();
    assert_eq!(names.len(), 2, "the same picture stands in it once: {names:?}");
    assert!(names[0].contains("colour=red&") && names[0].contains("product=mug"), "{names:?}");
    assert!(names[1].contains("product=vase"), "{names:?}");
    let given = Defaults { campaign: Some("studio".into()), slot: Some("thumb".into()), ..defaults() };
    assert_eq!(of_csv(&catalog(), b"product\nmug\nvase\n", &given).unwrap().items.len(), 2);
}

#[test]
fn each_fault_is_named_by_row_and_column() {
    let text = "campaign,slot,product,colour,seed\n\
                studio,thumb,mug,red,\n\
                nobody,thumb,mug,red,\n\
                studio,nowhere,car,mauve,x\n\
                studio,thumb,mug,red,5\n\
                studio,thumb,mug,red,,,\n\
                ,thumb\n";
    let found = faults(text);
    let places: Vec<(u64, &str)> = found.iter().map(|(row, column, _)| (*row, column.as_str())).collect();
    let expected = [
        (3, "campaign"),
        (4, "slot"),
        (4, "seed"),
        (4, "product"),
        (4, "colour"),
        (5, "seed"),
        (6, ""),
        (7, "campaign"),
    ];
    assert_eq!(places, expected, "{found:?}");
    assert!(found[0].2.contains("`nobody`") && found[3].2.contains("`car`"), "{found:?}");
    assert!(found[5].2.contains("people decide about no picture"), "{found:?}");
}

#[test]
fn a_header_names_what_there_is_once() {
    let found = faults("campaign,shape,colour,colour\nstudio,round,red,red\n");
    let places: Vec<(u64, &str)> = found.iter().map(|(row, column, _)| (*row, column.as_str())).collect();
    assert_eq!(places, [(1, "shape"), (1, "colour"), (1, "slot"), (2, "slot")], "{found:?}");
    assert_eq!(faults("")[0].0, 1);
    assert_eq!(faults("campaign,slot\nstudio,\"thumb")[0].0, 2);
}

#[test]
fn a_hundred_thousand_wrong_rows_are_counted_and_the_first_told() {
    let mut text = "campaign,slot,product,colour\n".to_owned();
    for row in 0..ROWS_MAX {
        let _ = writeln!(text, "studio,thumb,{},mauve", if row % 2 == 0 { "mug" } else { "car" });
    }
    let began = Instant::now();
    let found = csv(&text).expect_err("faults");
    assert_eq!((found.total, found.rows, found.first.len()), (ROWS_MAX * 3 / 2, ROWS_MAX, FAULTS_MAX));
    assert_eq!((found.first[0].row, found.first[0].column.as_str()), (2, "colour"));
    // Generous: a second even where nothing is optimised.
    assert!(began.elapsed().as_secs() < 60, "{:?}", began.elapsed());
    text.push_str("studio,thumb,mug,red\n");
    let beyond = csv(&text).expect_err("one row too many");
    assert_eq!((beyond.total, beyond.rows), (ROWS_MAX * 3 / 2 + 1, ROWS_MAX));
}

#[test]
fn a_list_takes_addresses_and_names() {
    let names = [
        "studio/thumb?product=vase",
        "/i/studio/thumb/teal-vase?product=vase&w=320&fm=webp",
        "https://img.example.com/i/studio/hero?product=mug",
    ];
    let selected = of_list(&catalog(), names, &SeedsOfEach::OWN).unwrap();
    assert_eq!((selected.items.len(), selected.rows), (2, 3));
    let found = of_list(&catalog(), ["studio/thumb", "studio/thumb?product=car", "x"], &SeedsOfEach::OWN).unwrap_err();
    assert_eq!(found.first.iter().map(|fault| fault.row).collect::<Vec<_>>(), [2, 3]);
    let seeds = of_list(&catalog(), ["studio/thumb"], &SeedsOfEach::Count(2)).unwrap_err();
    assert!(seeds.first[0].detail.contains("people decide about no picture"), "{seeds:?}");
}
