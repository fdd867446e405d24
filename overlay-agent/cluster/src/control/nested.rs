//! Messages of other modules inside a message of this one: as bytes in their own form, so that their
//! own checks are made.

macro_rules! nested {
    ($module:ident, $type:ty) => {
        pub(super) mod $module {
            use serde::{
                Deserialize as _, Deserializer, Serialize as _, Serializer, de::Error as _,
            };

            pub(in crate::control) fn serialize<S: Serializer>(
                value: &$type,
                serializer: S,
            ) -> Result<S::Ok, S::Error> {
                value.to_bytes().serialize(serializer)
            }

            pub(in crate::control) fn deserialize<'de, D: Deserializer<'de>>(
                deserializer: D,
            ) -> Result<$type, D::Error> {
                let bytes = Vec::<u8>::deserialize(deserializer)?;
                <$type>::from_bytes(&bytes).map_err(D::Error::custom)
            }
        }
    };
}

nested!(acknowledgement, crate::rotation::Acknowledgement);
nested!(digest, crate::rotation::Digest);
