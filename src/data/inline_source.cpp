// SPDX-License-Identifier: BSD-3-Clause
#include "data/inline_source.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <lockstep/data/worker_error.h>
#include <unistd.h>

#include "data/batch_builder.h"

namespace lockstep::data::detail {
namespace {

at::Tensor allocate(const TensorLayout& layout, std::size_t rows) {
  if (!layout.is_present()) return {};
  at::DimVector sizes{static_cast<std::int64_t>(rows)};
  sizes.append(layout.shape().begin(), layout.shape().end());
  return at::empty(sizes, at::TensorOptions(layout.dtype()));
}

std::byte* bytes_of(const at::Tensor& tensor) {
  return tensor.defined() ? static_cast<std::byte*>(tensor.mutable_data_ptr()) : nullptr;
}

}  // namespace

void InlineSource::start(BatchPlan plan) {
  plan_ = std::move(plan);
  next_ = 0;
}

Batch InlineSource::next() {
  const at::NoGradGuard no_grad;
  const auto number = next_++;
  const auto items = plan_.items(number);
  Batch batch;
  std::size_t row = 0;
  try {
    std::optional<torch::data::Example<>> first;
    if (!layout_) {
      first = source_.get(static_cast<std::size_t>(items[0]));
      layout_ = SampleLayout::of(*first);
    }
    batch = {allocate(layout_->data, items.size()), allocate(layout_->target, items.size())};
    const BatchRows rows{bytes_of(batch.data), bytes_of(batch.target)};
    if (first) write_row(*first, *layout_, rows, row++);
    for (; row < items.size(); ++row) {
      fetch_row(source_, static_cast<std::size_t>(items[row]), *layout_, rows, row);
    }
  } catch (...) {
    WorkerError::Context context;
    context.pid = ::getpid();
    context.batch = static_cast<std::int64_t>(number);
    context.sample = items[row];
    context.message = current_exception_message();
    throw WorkerError(std::move(context));
  }
  return batch;
}

}  // namespace lockstep::data::detail
