// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <ATen/core/Tensor.h>

#include <vector>

namespace lockstep {

/// Tells autograd that a call writes to this tensor, before it does: a backward that still needs
/// the old values throws autograd's own error ("modified by an inplace operation"). Where gradients
/// are on, a backward that comes to the new values of an interior tensor throws too, since no
/// collective has a derivative. Leaves are written as by an optimizer, and inference tensors have
/// no version. Throws: `c10::Error`, autograd's own, for a view that must not be written.
void note_written(const at::Tensor& tensor, const char* op);
void note_written(const std::vector<at::Tensor>& tensors, const char* op);

}  // namespace lockstep
