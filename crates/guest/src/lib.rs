// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! Containers inside the guest.
