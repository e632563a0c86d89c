// SPDX-License-Identifier: BSD-3-Clause
// Step 6 of the way of a sample: it becomes a row of its batch. Used by workers and by workers(0)
// alike.
#include "data/batch_builder.h"

#include <ATen/ops/from_blob.h>

#include <cstring>
#include <exception>

namespace lockstep::data::detail {
namespace {

void copy_tensor(const at::Tensor& tensor, const TensorLayout& layout, std::byte* row) {
  if (!layout.is_present()) return;
  const auto bytes = layout.bytes();
  if (bytes == 0) return;
  if (tensor.is_contiguous() && !tensor.is_conj() && !tensor.is_neg()) {
    std::memcpy(row, tensor.const_data_ptr(), bytes);
  } else {
    at::from_blob(row, layout.shape(), at::TensorOptions(layout.dtype())).copy_(tensor.detach());
  }
}

}  // namespace

void write_row(const torch::data::Example<>& sample, const SampleLayout& layout,
               const BatchRows& rows, std::size_t row) {
  const auto found = SampleLayout::of(sample);
  TORCH_CHECK(found == layout, "the sample's data is ", found.data.describe(), " and its target ",
              found.target.describe(), "; the first sample had data ", layout.data.describe(),
              " and target ", layout.target.describe(), ", and all samples must be alike");
  copy_tensor(sample.data, layout.data, rows.data + row * layout.data.bytes());
  copy_tensor(sample.target, layout.target, rows.target + row * layout.target.bytes());
}

void fetch_row(const SampleSource& source, std::size_t index, const SampleLayout& layout,
               const BatchRows& rows, std::size_t row) {
  if (!source.get_into) {
    write_row(source.get(index), layout, rows, row);
    return;
  }
  const auto data_bytes = layout.data.bytes();
  const auto target_bytes = layout.target.bytes();
  source.get_into(index, {rows.data + row * data_bytes, data_bytes},
                  {rows.target + row * target_bytes, target_bytes});
}

std::string current_exception_message() {
  try {
    throw;
  } catch (const c10::Error& error) {
    return error.what_without_backtrace();
  } catch (const std::exception& error) {
    return error.what();
  } catch (...) {
    return "an exception of unknown type";
  }
}

}  // namespace lockstep::data::detail
