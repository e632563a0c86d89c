// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/util/ArrayRef.h>
#include <c10/util/OptionalArrayRef.h>
#include <lockstep/core/export.h>
#include <lockstep/workers/detail/payload.h>
#include <lockstep/workers/task_codec.h>

#include <memory>

/// @file
/// Tensors as arguments and results of tasks: dense tensors on the CPU that need no gradient.
///
/// Thread-safety: several threads may call the functions at the same time.

namespace lockstep::workers {

/// @cond codecs of the library

LOCKSTEP_API void write_tensor(PayloadWriter& writer, const at::Tensor& tensor);
[[nodiscard]] LOCKSTEP_API at::Tensor read_tensor(PayloadReader& reader);
/// A tensor that lies at the start of `memory`.
[[nodiscard]] LOCKSTEP_API at::Tensor tensor_in(std::shared_ptr<PayloadMemory> memory,
                                                at::IntArrayRef sizes, at::ScalarType dtype);

template <>
struct TaskCodec<at::Tensor> {
  static void write(PayloadWriter& writer, const at::Tensor& tensor) {
    write_tensor(writer, tensor);
  }
  static at::Tensor read(PayloadReader& reader) { return read_tensor(reader); }
};

template <class T>
inline constexpr bool leads_elsewhere<c10::ArrayRef<T>> = true;
template <class T>
inline constexpr bool leads_elsewhere<c10::OptionalArrayRef<T>> = true;

/// @endcond

}  // namespace lockstep::workers
