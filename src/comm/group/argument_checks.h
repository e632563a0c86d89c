// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <ATen/core/Tensor.h>
#include <lockstep/comm/types.h>

#include <cstdint>
#include <vector>

namespace lockstep {

// What a process group checks of a call before a backend sees it. `op` and `name`: the call and the
// argument, for the error. All throw `c10::Error`.

void check_tensor(const at::Tensor& tensor, const char* op, const char* name);
/// For calls in which the strides may differ between ranks, so that memory order would mix
/// elements.
void check_contiguous(const at::Tensor& tensor, const char* op, const char* name);
void check_contiguous(const std::vector<at::Tensor>& tensors, const char* op, const char* name);
void check_dtype(at::ScalarType dtype, const std::vector<at::Tensor>& tensors, const char* op);
void check_reduction(at::ScalarType dtype, ReduceOp reduce_op, const char* op);
void check_same_size(const std::vector<at::Tensor>& pieces, std::int64_t elements, const char* op,
                     const char* name);
/// Inputs that are still to be sent must not be overwritten by outputs that have come.
void check_apart(const std::vector<at::Tensor>& outputs, const std::vector<at::Tensor>& inputs,
                 const char* op);
/// The same, but `tensor` may be piece `own` itself.
void check_apart_but(std::size_t own, const std::vector<at::Tensor>& pieces,
                     const at::Tensor& tensor, const char* op);
void check_root(int root, int ranks, const char* op);
void check_count(const std::vector<at::Tensor>& tensors, int ranks, const char* op,
                 const char* name);

/// Who makes a call about a message.
struct MessagePlace {
  int rank;
  int ranks;
  const char* op;
};
void check_message(const at::Tensor& tensor, int peer, int tag, const MessagePlace& place);

// --- a tensor as one piece a rank ---

[[nodiscard]] std::vector<at::Tensor> split_evenly(const at::Tensor& tensor, int parts);
[[nodiscard]] std::vector<at::Tensor> split_rows(const at::Tensor& tensor, at::IntArrayRef splits,
                                                 const char* name);
[[nodiscard]] std::int64_t row_elements(const at::Tensor& tensor);

}  // namespace lockstep
