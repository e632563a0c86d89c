// SPDX-License-Identifier: BSD-3-Clause
#include "parallel/buckets/gradient_bucket.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/empty_strided.h>
#include <ATen/ops/mul.h>
#include <ATen/ops/scalar_tensor.h>
#include <c10/core/Event.h>
#include <c10/core/StreamGuard.h>
#include <c10/core/impl/VirtualGuardImpl.h>

#include <algorithm>
#include <utility>

namespace lockstep {
namespace {

// Gradients begin on cache lines, so that the kernels that write them need not start askew.
constexpr std::size_t kAlignmentBytes = 64;

// Autograd lays gradients out like this: strides of a dense parameter are kept (channels_last),
// others become contiguous.
at::Tensor shape_of(const at::Tensor& parameter, at::ScalarType dtype) {
  const auto options = at::TensorOptions(dtype).device(at::kMeta);
  return parameter.is_non_overlapping_and_dense()
             ? at::empty_strided(parameter.sizes(), parameter.strides(), options)
             : at::empty(parameter.sizes(), options);
}

// The stride of a dimension with one element means nothing.
bool have_same_strides(const at::Tensor& a, const at::Tensor& b) {
  for (std::int64_t i = 0; i < a.dim(); ++i) {
    if (a.size(i) > 1 && a.stride(i) != b.stride(i)) return false;
  }
  return true;
}

}  // namespace

std::size_t GradientBucket::padded(std::size_t elements, at::ScalarType dtype) {
  const std::size_t step = std::max<std::size_t>(1, kAlignmentBytes / c10::elementSize(dtype));
  return (elements + step - 1) / step * step;
}

GradientBucket::GradientBucket(const BucketSpec& spec, const std::vector<at::Tensor>& parameters,
                               std::string name)
    : parameters_(spec.parameters),
      dtype_(spec.dtype),
      device_(spec.device),
      name_(std::move(name)),
      views_(spec.parameters.size()),
      is_filled_(spec.parameters.size(), false),
      missing_(spec.parameters.size()) {
  for (const std::size_t index : parameters_) {
    shapes_.push_back(shape_of(parameters[index], dtype_));
    bytes_ += padded(static_cast<std::size_t>(parameters[index].numel()), dtype_) *
              c10::elementSize(dtype_);
  }
}

bool GradientBucket::is_laid_out_as(const at::Tensor& shape, const at::Tensor& gradient) const {
  return gradient.defined() && gradient.layout() == at::kStrided && gradient.device() == device_ &&
         gradient.scalar_type() == dtype_ && gradient.sizes() == shape.sizes() &&
         have_same_strides(gradient, shape) && !gradient.is_conj() && !gradient.is_neg();
}

bool GradientBucket::is_view(std::size_t place, const at::Tensor& gradient) const {
  const at::Tensor& view = views_[place];
  return is_laid_out_as(shapes_[place], gradient) &&
         gradient.const_data_ptr() == view.const_data_ptr();
}

void GradientBucket::put(std::size_t place, const at::Tensor& parameter, double scale,
                         const at::Tensor& incoming, bool leaves_it) {
  follow_stream();
  const at::Tensor& gradient = parameter.grad();
  if (is_filled_[place]) {
    if (gradient.defined() && scale != 0) views_[place].add_(gradient, scale);
  } else {
    prepare_view(place, gradient, incoming, leaves_it);
    copy_in(place, gradient, scale);
  }
  // Also frees what autograd allocated while it is still warm in the cache; the next gradient gets
  // that memory.
  parameter.mutable_grad().reset();
  count_as_filled(place);
}

void GradientBucket::copy_in(std::size_t place, const at::Tensor& gradient, double scale) {
  const at::Tensor& view = views_[place];
  if (!gradient.defined() || scale == 0) {
    view.zero_();
  } else if (is_view(place, gradient)) {
    if (scale != 1) view.mul_(scale);
  } else {
    copied_bytes_ += view.nbytes();
    // The parameter's last gradient in another order lies where the new one goes.
    const bool is_in_the_way = gradient.storage().data() == view.storage().data();
    const at::Tensor source = is_in_the_way ? gradient.clone() : gradient;
    if (scale == 1) {
      view.copy_(source);
    } else {
      at::mul_out(const_cast<at::Tensor&>(view), source, at::scalar_tensor(scale, at::kDouble));
    }
  }
}

void GradientBucket::count_as_filled(std::size_t place) {
  if (!is_filled_[place]) --missing_;
  is_filled_[place] = true;
}

void GradientBucket::put_zero(std::size_t place) {
  if (is_filled_[place]) return;
  follow_stream();
  prepare_view(place, {}, {}, false);
  views_[place].zero_();
  count_as_filled(place);
}

at::Tensor GradientBucket::average(std::size_t place, const at::Tensor& parameter) const {
  const at::Tensor& view = views_[place];
  return parameter.scalar_type() == view.scalar_type() ? view : view.to(parameter.scalar_type());
}

void GradientBucket::follow_stream() {
  if (device_.is_cpu()) return;
  const c10::impl::VirtualGuardImpl backend(device_.type());
  const c10::Stream current = backend.getStream(device_);
  if (stream_ && *stream_ != current) {
    c10::Event event(device_.type());
    event.record(*stream_);
    event.block(current);
  }
  stream_ = current;
}

void GradientBucket::launch_by(ProcessGroup& group, const std::function<void()>& start) {
  const c10::OptionalStreamGuard guard(stream_);
  launched_at_ = std::chrono::steady_clock::now();
  const auto scope = group.with(CallOptions().name(name_));
  start();
}

void GradientBucket::launch(ProcessGroup& group) {
  launch_by(group, [&] { work_ = all_reduce(group); });
}

void GradientBucket::reset() {
  std::fill(is_filled_.begin(), is_filled_.end(), false);
  missing_ = parameters_.size();
  work_.reset();
  stream_.reset();
  copied_bytes_ = 0;
}

}  // namespace lockstep
