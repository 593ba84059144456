//! Values of every base type that PostgreSQL ships, as SQL, by lot: small worlds, so that
//! rows collide; and in each of them what is easily got wrong.

use super::random::Random;

/// A type of columns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Type {
    /// As in CREATE TABLE.
    pub(super) sql: &'static str,
    /// It has no equality: a table without key that has such a column cannot be subscribed to.
    pub(super) unequal: bool,
    /// Values of it, as SQL; `#` is a small number.
    values: &'static [&'static str],
}

const fn of(sql: &'static str, values: &'static [&'static str]) -> Type {
    Type { sql, unequal: false, values }
}

const fn unequal(sql: &'static str, values: &'static [&'static str]) -> Type {
    Type { sql, unequal: true, values }
}

/// The types that a schema declares itself.
pub(super) const DECLARED: &str = "
    CREATE TYPE mood AS ENUM ('sad', 'it''s', 'Happy \"é\"', '');
    CREATE TYPE pair AS (a int4, b text);
    CREATE DOMAIN short AS varchar(12) CHECK (length(value) < 12);";

/// Every type.
pub(super) const TYPES: &[Type] = &[
    of("bool", &["true", "false"]),
    of("int2", &["#", "-32768", "32767"]),
    of("int4", &["#", "-#", "-2147483648", "2147483647"]),
    of("int8", &["#", "-9223372036854775808", "9223372036854775807"]),
    of("oid", &["#", "4294967295"]),
    of(
        "numeric",
        &["#", "0.00", "-#.50", "1e-40", "'NaN'", "'Infinity'", "12345678901234567890.1234567890"],
    ),
    of("numeric(8,2)", &["#", "-#.5", "999999.99", "0"]),
    of("float4", &["#", "'-0'", "0.1", "'NaN'", "'-Infinity'", "1e-45", "3.4028235e38"]),
    of("float8", &["#", "'-0'", "0.1", "'NaN'", "'Infinity'", "5e-324", "1.7976931348623157e308"]),
    of(
        "text",
        &[
            "'text #'",
            "''",
            "'tab\tnew\nline\\ ''quote'' \"double\" é 🦀'",
            "'\\N'",
            "'null'",
            "repeat('wide #', 20)",
        ],
    ),
    of("varchar(20)", &["'v#'", "''", "'  v  '"]),
    of("char(6)", &["'c#'", "''", "'  c'"]),
    of("name", &["'n#'", "'Name \"x\"'"]),
    of("\"char\"", &["'x'", "''"]),
    of("bytea", &["decode(md5('#'), 'hex')", "''", "'\\x00ff27225c'"]),
    of("date", &["date '2024-02-28' + #", "'infinity'", "'0044-03-15 BC'", "'5874897-12-31'"]),
    of("time", &["'12:34:56.789'", "'24:00'", "'00:00:#'"]),
    of("timetz", &["'12:34:56.7+05:30'", "'23:59:59.999999-15:59'"]),
    of(
        "timestamp",
        &[
            "'2024-02-29 12:00:00.000001'",
            "'-infinity'",
            "timestamp '2024-01-01' + # * interval '1 hour'",
        ],
    ),
    of(
        "timestamptz",
        &[
            "'2024-10-27 02:30:00+02'",
            "'infinity'",
            "'4713-01-01 00:00:00+00 BC'",
            "timestamptz '2024-01-01' + # * interval '1 s'",
        ],
    ),
    of("interval", &["'1 mon -# days 3 hours'", "'-00:00:00.000001'", "'178000000 years'"]),
    of("uuid", &["md5('#')::uuid", "'ffffffff-ffff-ffff-ffff-ffffffffffff'"]),
    unequal("json", &["'{\"a\": #, \"a\":  1}'", "'null'", "'[1,  2]'"]),
    of("jsonb", &["'{\"a\": #, \"b\": [null, \"é\\\"\"]}'", "'null'", "'#'", "'\"\"'"]),
    unequal("xml", &["'<a>#</a>'", "'<?xml version=\"1.0\"?><b x=\"1\"/>'"]),
    of("inet", &["'10.0.0.#'", "'::1'", "'192.168.1.0/24'"]),
    of("cidr", &["'10.0.0.0/8'", "'2001:db8::/32'"]),
    of("macaddr", &["'08:00:2b:01:02:#'"]),
    of("macaddr8", &["'08:00:2b:01:02:03:04:05'"]),
    of("money", &["#", "-0.01"]),
    of("bit(5)", &["B'10110'", "B'00000'"]),
    of("varbit", &["B'1'", "B''", "B'10101010101'"]),
    unequal("point", &["'(#, -1.5)'", "'(1e300, NaN)'"]),
    unequal("box", &["'(1,1),(0,#)'"]),
    unequal("circle", &["'<(0,0),#>'"]),
    unequal("polygon", &["'((0,0),(1,1),(#,0))'"]),
    unequal("path", &["'[(0,0),(1,#)]'"]),
    unequal("lseg", &["'[(0,0),(1,#)]'"]),
    of("tsvector", &["'a fat cat:# sat'", "''"]),
    of("tsquery", &["'fat & (rat | cat)'"]),
    of("pg_lsn", &["'16/B374D8#'"]),
    of("int4range", &["'[1,#)'", "'empty'", "'(,)'"]),
    of("numrange", &["'[1.5,2.50]'", "'(,#]'"]),
    of("tstzrange", &["'[2024-01-01 00:00+00,infinity)'", "'empty'"]),
    of("int4multirange", &["'{[1,3),[5,#99)}'", "'{}'"]),
    of("int4[]", &["'{}'", "'{1,NULL,#}'", "'{{1,2},{3,#}}'", "'[0:1]={1,2}'"]),
    of("text[]", &["ARRAY['a', NULL, '', 'NULL', 'x \"y\" {z},\\ #']"]),
    of("mood", &["'sad'", "'it''s'", "'Happy \"é\"'", "''"]),
    of("mood[]", &["'{sad,\"\"}'"]),
    of("pair", &["ROW(#, 'x,\"y\" ()')", "ROW(NULL, '')"]),
    of("short", &["'short #'", "''"]),
];

impl Type {
    /// A value of it as SQL, NULL now and then.
    pub(super) fn value(&self, random: &mut Random, nullable: bool) -> String {
        if nullable && random.often(120) {
            return "NULL".to_owned();
        }
        let small = random.within(1, 9).to_string();
        random.one(self.values).replace('#', &small)
    }
}
