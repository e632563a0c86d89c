// SPDX-License-Identifier: BSD-3-Clause
#include "parallel/gradient_bucket.h"

#include <ATen/ops/empty.h>

#include <algorithm>

namespace lockstep {
namespace {

// Gradients begin on cache lines, so that the kernels that write them need not start askew.
constexpr std::size_t kAlignmentBytes = 64;

std::size_t round_up(std::size_t elements, std::size_t element_bytes) {
  const std::size_t step = std::max<std::size_t>(1, kAlignmentBytes / element_bytes);
  return (elements + step - 1) / step * step;
}

// As autograd lays gradients out: strides of a dense parameter are kept (channels_last), others
// become contiguous. Not a view in autograd's sense: LibTorch's optimizers detach gradients in
// place, which views refuse.
at::Tensor make_view(const at::Tensor& flat, const at::Tensor& parameter, std::size_t offset) {
  const at::Tensor shape = parameter.is_non_overlapping_and_dense()
                               ? parameter
                               : at::empty(parameter.sizes(), flat.options());
  return at::empty({0}, flat.options())
      .set_(flat.storage(), flat.storage_offset() + static_cast<std::int64_t>(offset),
            shape.sizes(), shape.strides());
}

bool is_same_memory(const at::Tensor& a, const at::Tensor& b) {
  return a.device() == b.device() && a.const_data_ptr() == b.const_data_ptr() &&
         a.scalar_type() == b.scalar_type() && a.strides() == b.strides();
}

}  // namespace

GradientBucket::GradientBucket(ProcessGroup& group, const BucketPlan& plan,
                               const std::vector<at::Tensor>& parameters, std::size_t extra)
    : parameters_(plan.parameters), has_taken_(plan.parameters.size(), false) {
  const std::size_t element_bytes = c10::elementSize(plan.dtype);
  std::vector<std::size_t> offsets;
  for (const std::size_t index : parameters_) {
    offsets.push_back(gradient_elements_);
    gradient_elements_ +=
        round_up(static_cast<std::size_t>(parameters[index].numel()), element_bytes);
  }
  flat_ = group.allocate({static_cast<std::int64_t>(gradient_elements_ + extra)},
                         at::TensorOptions(plan.dtype));
  for (std::size_t place = 0; place < parameters_.size(); ++place) {
    views_.push_back(make_view(flat_, parameters[parameters_[place]], offsets[place]));
  }
  missing_ = parameters_.size();
}

void GradientBucket::take(std::size_t place, const at::Tensor& parameter) {
  const at::Tensor& view = views_[place];
  const at::Tensor& gradient = parameter.grad();
  if (!gradient.defined()) {
    view.zero_();
  } else if (!is_same_memory(gradient, view)) {
    view.copy_(gradient.detach());
    // Frees what autograd allocated while it is still warm in the cache; the next gradient gets
    // that memory.
    if (parameter.device() == view.device()) parameter.mutable_grad() = view;
  }
  if (!has_taken_[place]) --missing_;
  has_taken_[place] = true;
}

void GradientBucket::give(std::size_t place, const at::Tensor& parameter) const {
  const at::Tensor& view = views_[place];
  if (parameter.device() == view.device()) {
    parameter.mutable_grad() = view;
  } else if (parameter.grad().defined()) {
    parameter.mutable_grad().copy_(view);
  } else {
    parameter.mutable_grad() = view.to(parameter.device());
  }
}

at::Tensor GradientBucket::extra() const {
  return flat_.slice(0, static_cast<std::int64_t>(gradient_elements_));
}

void GradientBucket::launch(ProcessGroup& group) {
  work_ = group.all_reduce(flat_, ReduceOp::Avg);
}

void GradientBucket::reset() {
  std::fill(has_taken_.begin(), has_taken_.end(), false);
  missing_ = parameters_.size();
  work_.reset();
}

}  // namespace lockstep
