//! The generated messages and services. Nothing is written by hand here.
#![expect(missing_docs, reason = "generated from proto/, which is documented")]
#![allow(clippy::all, clippy::allow_attributes_without_reason, rustdoc::all, reason = "generated")]

/// `kasho.proto`.
pub mod kasho {
    tonic::include_proto!("kasho");
}

/// `change_stream.proto`: services only, their messages are those of [`kasho`].
pub mod change_stream {
    tonic::include_proto!("change_stream");
}

/// Both files as a descriptor set, for server reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

#[cfg(test)]
mod tests {
    use prost::Message;
    use prost_types::{DescriptorProto, FileDescriptorProto, FileDescriptorSet};

    fn fields(message: &DescriptorProto) -> Vec<(i32, i32, i32, String)> {
        let of = |name: &str| name.rsplit('.').next().unwrap_or_default().to_owned();
        let fields = message.field.iter();
        let mut fields: Vec<_> = fields
            .map(|f| (f.number(), f.label().into(), f.r#type().into(), of(f.type_name())))
            .collect();
        fields.sort();
        fields
    }

    fn shape(file: &FileDescriptorProto) -> Vec<(&str, Vec<(i32, i32, i32, String)>)> {
        file.message_type.iter().map(|message| (message.name(), fields(message))).collect()
    }

    #[test]
    fn both_files_have_one_wire_format() {
        let set = FileDescriptorSet::decode(super::DESCRIPTORS).unwrap();
        let file = |name| set.file.iter().find(|file| file.name() == name).unwrap();
        let (ours, theirs) = (file("kasho.proto"), file("change_stream.proto"));
        assert_eq!(shape(ours), shape(theirs));
        let methods = |file: &FileDescriptorProto| {
            file.service[0].method.iter().map(|m| m.name().to_owned()).collect::<Vec<_>>()
        };
        assert_eq!(methods(ours), methods(theirs));
    }

    #[test]
    fn the_originals_fields_keep_their_numbers() {
        let set = FileDescriptorSet::decode(super::DESCRIPTORS).unwrap();
        let file = set.file.iter().find(|file| file.name() == "change_stream.proto").unwrap();
        for (message, names) in [
            ("StreamRequest", &["last_position"][..]),
            ("Change", &["position", "type", "dml", "ddl"]),
            ("DMLData", &["table", "column_names", "column_values", "kind", "old_keys"]),
            ("OldKeys", &["key_names", "key_values"]),
            (
                "ColumnValue",
                &["string_value", "int_value", "float_value", "bool_value", "timestamp_value"],
            ),
            ("DDLData", &["id", "time", "username", "database", "ddl"]),
            ("StartBootstrapRequest", &["start_position", "snapshot_name"]),
            (
                "BootstrapResponse",
                &[
                    "status",
                    "previous_state",
                    "current_state",
                    "accumulated_changes",
                    "ready_to_stream",
                ],
            ),
            (
                "StatusResponse",
                &[
                    "state",
                    "start_position",
                    "current_position",
                    "accumulated_changes",
                    "connected_clients",
                    "uptime_seconds",
                ],
            ),
        ] {
            let found = file.message_type.iter().find(|m| m.name() == message).unwrap();
            for (name, number) in names.iter().zip(1..) {
                let field = found.field.iter().find(|field| field.number() == number).unwrap();
                assert_eq!(field.name(), *name, "{message}");
            }
        }
    }
}
