//! Plugins in both styles, driven through the blocks of ABI 1.
#![allow(clippy::unwrap_used, reason = "a test that meets one has failed")]

use kasho_plugin_sdk::abi::{ColumnUse, Use};
use kasho_plugin_sdk::keys::DomainKey;
use kasho_plugin_sdk::testing::{
    Fixture, MASTER, counted, delete, insert, logged, read, table, truncate, update, update_from,
};
use kasho_plugin_sdk::*;
use serde_json::{Value as Json, json};

fn hash(domain: &str, value: &str) -> Hash {
    Hash(DomainKey::derive(&MASTER, domain).prf(value.as_bytes()))
}

/// Everything the row style has.
struct Everything {
    email: Col,
    bio: Col,
    status: Col,
    bad: Reason,
    seen: Counter,
}

impl Plugin for Everything {
    fn new(cx: &mut Setup<'_>) -> Result<Self> {
        let email = cx.domain("email");
        cx.truncates();
        cx.commit_time();
        cx.pass("*.users.id")?;
        cx.drop("public.users.secret*")?;
        let status = cx.read("public.users.status")?;
        let plugin = Everything {
            email: cx.mask("*.users.email")?.keyed(email).normalised(Normaliser::Lower),
            bio: cx.write_from("*.users.bio", &[status])?,
            status,
            bad: cx.reason("not an e-mail"),
            seen: cx.counter("rows seen"),
        };
        cx.fingerprint(plugin.email, "x/1");
        Ok(plugin)
    }

    fn relation(&mut self, table: &Table<'_>) -> Result<()> {
        match table.column_of(self.email) {
            Some(column) if column.base != "text" => {
                Err(Error::new("only text can be masked").at(&column.name))
            }
            _ => Ok(()),
        }
    }

    fn row(&mut self, row: &mut Row<'_, '_>) -> Verdict {
        self.seen.add(1);
        assert_eq!(row.commit_time(), Some(Timestamp(1_700_000_000_000_000)));
        if row.op() == Op::Truncate {
            return Verdict::Drop;
        }
        let bad = self.bad;
        row.rewrite_hashed(self.email, |email, hash, out| match email.split_once('@') {
            None => Err(bad),
            Some((_, domain)) => Ok(write!(out, "{}@{domain}", hash.short())),
        });
        match row.text(self.status) {
            Some("gone") => return Verdict::Drop,
            Some("odd") => return Verdict::Error(bad),
            Some("moved") => return Verdict::AsInsert,
            Some("left") => return Verdict::AsDelete,
            Some("blank") => row.null(self.bio),
            Some("twice") => {
                row.rewrite(self.bio, |bio, out| write!(out, "<{bio}>"));
                row.rewrite(self.bio, |bio, _| format!("[{bio}]"));
                assert!(matches!(row.now(self.bio), Value::Text(now) if now.starts_with("[<")));
            }
            Some("set") => row.set(self.bio, "set"),
            Some("log") => log(Level::Info, "a row"),
            _ => {}
        }
        Verdict::Keep
    }
}

fn users() -> Relation {
    table(
        "public.users(id int8 key, email text not null, bio text, status text, \
         secret text, secret2 text, extra text)",
    )
}

fn everything() -> Fixture<Everything> {
    let mut fixture = Fixture::new(Json::Null).unwrap();
    fixture.relation(&users()).unwrap();
    fixture
}

#[test]
fn declarations_become_needs_and_slots() {
    let mut fixture = Fixture::<Everything>::new(Json::Null).unwrap();
    let needs = fixture.needs();
    assert_eq!(needs.uses, ["prf", "commit_time"]);
    assert_eq!(needs.texts, ["not an e-mail", "rows seen"]);
    assert_eq!(needs.needs["*.users"], ["id", "email", "bio"]);
    assert_eq!(needs.needs["public.users"], ["status"]);
    let wanted = fixture.relation(&users()).unwrap().unwrap().clone();
    let column = |name: &str, usage, fingerprint: Option<&str>, reads: &[&str]| ColumnUse {
        passes: false,
        name: name.to_owned(),
        usage,
        fingerprint: fingerprint.map(str::to_owned),
        reads: reads.iter().map(|r| (*r).to_owned()).collect(),
    };
    assert_eq!(
        wanted.columns,
        [
            column("id", Use::Pass, None, &[]),
            column("email", Use::Mask, Some("x/1"), &[]),
            column("bio", Use::Write, None, &["status"]),
            column("status", Use::Read, None, &[]),
            column("secret", Use::Drop, None, &[]),
            column("secret2", Use::Drop, None, &[]),
        ]
    );
    assert_eq!(wanted.ops, [Op::Insert, Op::Update, Op::Delete, Op::Read, Op::Truncate]);
    assert!(wanted.commit_time);
    assert_eq!(fixture.relation(&table("public.other(id int8 key)")).unwrap(), None);
    let vetoed = fixture.relation(&table("crm.users(id int8 key, email citext)"));
    assert_eq!(vetoed.unwrap_err().to_string(), "email: only text can be masked");
}

#[test]
fn both_images_are_rewritten_and_nothing_else() {
    let users = table("public.users(id int8, email text, bio text, status text) full");
    let mut fixture = Fixture::<Everything>::new(Json::Null).unwrap();
    fixture.relation(&users).unwrap();
    let a = format!("{}@x.org", hash("email", "a@x.org").short());
    let b = format!("{}@x.org", hash("email", "b@x.org").short());
    let rows = [
        update_from([("id", "1"), ("email", "a@x.org")], [("id", "1"), ("email", "B@x.org")]),
        delete([("id", "1"), ("email", "b@x.org")]),
        insert([("id", Some("2")), ("email", None)]),
        update([("id", Value::Text("2")), ("email", Value::Unchanged)]),
        read([("id", "3"), ("email", "a@x.org")]),
    ];
    let out = fixture.run(&users, &rows);
    assert_eq!((out[0].before("email"), out[0].after("email")), (Value::Text(&a), Value::Text(&b)));
    assert_eq!((out[1].before("email"), out[1].after("email")), (Value::Text(&b), Value::Absent));
    assert_eq!(out[2].after("email"), Value::Null);
    assert_eq!(out[3].after("email"), Value::Unchanged);
    assert_eq!(out[4].after("email"), Value::Text(&a));
    assert_eq!(out[4].after("id"), Value::Text("3"));
}

#[test]
fn verdicts_and_rewrites_of_all_kinds() {
    let row = |status: &'static str| {
        update([("id", "1"), ("email", "a@x.org"), ("bio", "b"), ("status", status)])
    };
    let rows = [
        row("gone"),
        row("odd"),
        row("moved"),
        row("left"),
        row("blank"),
        row("twice"),
        row("set"),
        row("log"),
        truncate(),
        insert([("id", "1"), ("email", "no"), ("status", "x")]),
    ];
    let out = everything().run(&users(), &rows);
    assert!(out[0].dropped());
    assert_eq!((out[1].error(), out[1].error_column()), (Some("not an e-mail"), None));
    assert_eq!(out[2].op(), Op::Insert);
    assert_eq!((out[3].op(), out[3].before("id")), (Op::Delete, Value::Text("1")));
    assert_eq!(out[4].after("bio"), Value::Null);
    assert_eq!(out[5].after("bio"), Value::Text("[<b>]"));
    assert_eq!(out[6].after("bio"), Value::Text("set"));
    assert_eq!(out[7].after("secret2"), Value::Absent);
    assert!(out[8].dropped());
    assert_eq!((out[9].error(), out[9].error_column()), (Some("not an e-mail"), Some("email")));
    assert_eq!(logged(), ["a row"]);
    assert_eq!(counted("rows seen"), 10);
}

/// Column style, several passes over one column.
struct Columns {
    a: Col,
    b: Col,
    domain: Domain,
    bad: Reason,
}

impl Plugin for Columns {
    fn new(cx: &mut Setup<'_>) -> Result<Self> {
        let (a, b) = (cx.write("*.*.a")?, cx.write("*.*.b")?);
        Ok(Columns { a, b, domain: cx.domain("d"), bad: cx.reason("bad") })
    }

    fn batch(&mut self, batch: &mut Batch<'_>) {
        let mut texts = Vec::new();
        batch.texts(self.a, |text| texts.push(text.len()));
        let mut texts = texts.into_iter();
        batch.rewrite(self.a, |a, out| write!(out, "{a}{}", texts.next().unwrap()));
        batch.rewrite(self.a, |a, _| (a != "0").then(|| a.to_uppercase()));
        let (domain, bad) = (self.domain, self.bad);
        batch.rewrite_hashed(self.b, domain, |b, hash, out| match b {
            "bad" => Err(bad),
            "same" => Ok(Patched::Same),
            _ => {
                assert_eq!(hash, domain.hash(b));
                out.push_str("gone");
                out.clear();
                Ok(hash.to_string().into_patch(out))
            }
        });
        let drop: Vec<bool> = batch.values(self.b).map(|v| v == Value::Text("drop")).collect();
        (0..batch.len()).filter(|i| drop[*i]).for_each(|i| batch.judge(i, Verdict::Drop));
    }
}

#[test]
fn column_style_does_the_same() {
    let t = table("s.t(id int8 key, a text, b text)");
    let mut fixture = Fixture::<Columns>::new(Json::Null).unwrap();
    fixture.relation(&t).unwrap();
    let row = |a: Option<&'static str>, b: Option<&'static str>| {
        insert([("id", Some("1")), ("a", a), ("b", b)])
    };
    let rows = [
        row(Some("x"), None),
        row(Some(""), Some("drop")),
        row(None, Some("bad")),
        row(Some("ü"), Some("")),
        row(Some(""), Some("same")),
    ];
    let out = fixture.run(&t, &rows);
    assert_eq!((out[0].after("a"), out[0].after("b")), (Value::Text("X1"), Value::Null));
    assert!(out[1].dropped());
    assert_eq!((out[2].error(), out[2].error_column()), (Some("bad"), Some("b")));
    assert_eq!(out[3].after("a"), Value::Text("Ü2"));
    assert_eq!(out[3].after("b"), Value::Text(&hash("d", "").to_string()));
    assert_eq!((out[4].after("a"), out[4].after("b")), (Value::Null, Value::Text("same")));
    let other = table("s.u(id int8 key, b text)");
    fixture.relation(&other).unwrap();
    assert_eq!(fixture.run(&other, &[insert([("id", "1")])])[0].after("b"), Value::Null);
}

/// Declares whatever its rules say.
struct Declares;

impl Plugin for Declares {
    fn new(cx: &mut Setup<'_>) -> Result<Self> {
        for [usage, name] in cx.rules::<Vec<[String; 2]>>()? {
            match usage.as_str() {
                "mask" => drop(cx.mask(&name)?),
                "read" => drop(cx.read(&name)?),
                "pass" => cx.pass(&name)?,
                "drop" => cx.drop(&name)?,
                "reason" => drop(cx.reason(&name)),
                _ => cx.table(&name)?,
            }
        }
        Ok(Declares)
    }
}

#[test]
fn the_more_exact_rule_holds() {
    let uses = |rules: Json, relation: &str| -> Result<Option<Vec<Use>>> {
        let mut fixture = Fixture::<Declares>::new(rules)?;
        let wanted = fixture.relation(&table(relation))?;
        Ok(wanted.map(|w| w.columns.iter().map(|c| c.usage).collect()))
    };
    let rules = json!([["mask", "b.*.email"], ["pass", "b.plans.*"], ["drop", "b.plans.email"]]);
    let of = |relation: &str| uses(rules.clone(), relation).unwrap();
    assert_eq!(of("b.plans(id int8 key, email text)"), Some(vec![Use::Pass, Use::Drop]));
    assert_eq!(of("b.users(id int8 key, email text)"), Some(vec![Use::Mask]));
    assert_eq!(of("c.users(id int8 key, email text)"), None);
    let read = json!([["read", "b.t.id"], ["pass", "b.t.*"]]);
    assert_eq!(uses(read, "b.t(id int8 key)").unwrap(), Some(vec![Use::Read]));
    let listed = json!([["table", "b.*"]]);
    assert_eq!(uses(listed, "b.t(id int8 key)").unwrap(), Some(vec![]));
    for (rules, want) in [
        (json!([["mask", "b.*.id"], ["pass", "b.*.id"]]), "ruled on by"),
        (json!([["read", "b.t.id"], ["drop", "b.t.id"]]), "nothing may read"),
        (json!([["mask", "b.t.*"]]), "name one column"),
        (json!([["mask", "b.t"]]), "schema.table.column"),
        (json!([["reason", "x".repeat(201)]]), "longer than 200"),
        (json!({"a": 1}), "rules: invalid type"),
    ] {
        let error = uses(rules, "b.t(id int8 key)").unwrap_err().to_string();
        assert!(error.contains(want), "{error}");
    }
}

/// Masks, but leaves what begins with `x`.
struct Leaky(Col);

impl Plugin for Leaky {
    fn new(cx: &mut Setup<'_>) -> Result<Self> {
        Ok(Leaky(cx.mask("s.t.a")?))
    }

    fn row(&mut self, row: &mut Row<'_, '_>) -> Verdict {
        row.rewrite(self.0, |a, _| if a.starts_with('x') { Patched::Same } else { Patched::Null });
        Verdict::Keep
    }
}

#[test]
#[should_panic(expected = "row 1: the New value of masked column a is left as it was")]
fn a_forgotten_mask_is_noticed() {
    let t = table("s.t(id int8 key, a text)");
    let mut fixture = Fixture::<Leaky>::new(Json::Null).unwrap();
    fixture.relation(&t).unwrap();
    fixture.run(&t, &[insert([("id", "1"), ("a", "y")]), insert([("id", "1"), ("a", "x")])]);
}

#[test]
fn one_line_masks() {
    mod keyed {
        kasho_plugin_sdk::mask!("s.t.a", domain = "d", |a, hash| format!(
            "{}{}",
            a.len(),
            hash.short()
        ));
    }
    mod plain {
        kasho_plugin_sdk::mask!("s.t.a", |a| "x".repeat(a.chars().count()));
    }
    let t = table("s.t(id int8 key, a text)");
    let rows = [insert([("id", "1"), ("a", "äb")])];
    let mut fixture = Fixture::<keyed::KashoMask>::new(Json::Null).unwrap();
    fixture.relation(&t).unwrap();
    let want = format!("3{}", hash("d", "äb").short());
    assert_eq!(fixture.run(&t, &rows)[0].after("a"), Value::Text(&want));
    let mut fixture = Fixture::<plain::KashoMask>::new(Json::Null).unwrap();
    fixture.relation(&t).unwrap();
    assert_eq!(fixture.run(&t, &rows)[0].after("a"), Value::Text("xx"));
}

#[derive(Debug)]
struct Renaming;

impl Plugin for Renaming {
    fn new(cx: &mut Setup<'_>) -> Result<Self> {
        let Names { names } = cx.rules()?;
        for (from, to) in names {
            cx.rename(&from, &to)?;
        }
        Ok(Renaming)
    }
}

#[derive(serde::Deserialize)]
struct Names {
    names: Vec<(String, String)>,
}

#[test]
fn a_plugin_gives_new_names() {
    let named = |names: serde_json::Value| Fixture::<Renaming>::new(json!({ "names": names }));
    let mut fixture = named(json!([
        ["public.users", "crm.people"],
        ["public.users.email", "mail"],
        ["public.orders.total", "sum"],
    ]))
    .unwrap();
    assert_eq!(fixture.needs().needs["public.users"], ["email"]);
    let users = table("public.users(id int8 key, email text)");
    let wanted = fixture.relation(&users).unwrap().unwrap();
    let rename = wanted.rename.as_ref().unwrap();
    assert_eq!(rename.table.as_deref(), Some("crm.people"));
    assert_eq!(rename.columns["email"], "mail");
    assert!(wanted.columns.is_empty());
    assert!(fixture.relation(&table("public.plans(id int8 key)")).unwrap().is_none());
    for (from, want) in [
        ("users", "a table is named schema.table"),
        ("public.*", "a rename names one table or column"),
        ("public.users.*", "a rename names one table or column"),
    ] {
        let error = named(json!([[from, "x"]])).unwrap_err().to_string();
        assert!(error.contains(want), "{error}");
    }
}

struct ByRow {
    flag: Col,
    keys: Vec<Col>,
}

impl Plugin for ByRow {
    fn new(cx: &mut Setup<'_>) -> Result<Self> {
        let (flag, keys) = (cx.mask("s.*.flag")?, cx.read_identity("s.*", 3)?);
        cx.depends(flag, &keys);
        cx.pass("s.*.id")?;
        Ok(ByRow { flag, keys })
    }

    fn batch(&mut self, batch: &mut Batch<'_>) {
        let mut texts = Vec::new();
        batch.places(self.flag, |row, image| {
            let keys = self.keys.iter().map(|key| match batch.came(*key, row, image) {
                Value::Text(text) => text,
                _ => "-",
            });
            texts.push(keys.collect::<Vec<_>>().join("/"));
        });
        let mut texts = texts.into_iter();
        batch.rewrite(self.flag, |_, _| texts.next().unwrap_or_default());
    }
}

#[test]
fn identity_columns_are_read_whatever_they_are_called() {
    let mut fixture = Fixture::<ByRow>::new(serde_json::Value::Null).unwrap();
    let t = table("s.t(b int8 key, flag text, id int8 key, c text)");
    let wanted = fixture.relation(&t).unwrap().unwrap();
    let uses: Vec<_> =
        wanted.columns.iter().map(|c| (c.name.as_str(), c.usage, c.passes)).collect();
    assert_eq!(
        uses,
        [("b", Use::Read, false), ("flag", Use::Mask, false), ("id", Use::Read, true)]
    );
    assert_eq!(wanted.columns[1].reads, ["b", "id"]);
    let out = fixture.run(&t, &[insert([("b", "2"), ("id", "1"), ("flag", "x")])]);
    assert_eq!(out[0].after("flag"), Value::Text("2/1/-"));
    // A table without the column is none of its business, but for what passes.
    let other = table("s.u(b int8 key, id int8)");
    let wanted = fixture.relation(&other).unwrap().unwrap();
    assert_eq!(wanted.columns.len(), 1);
    assert_eq!((wanted.columns[0].name.as_str(), wanted.columns[0].usage), ("id", Use::Pass));
}
