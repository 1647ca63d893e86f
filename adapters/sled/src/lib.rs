//! The sled adapter of anabranch.
