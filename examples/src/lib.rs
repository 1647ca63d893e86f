//! Examples of anabranch.
