//! The tcp adapter of anabranch.
