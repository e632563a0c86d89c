// SPDX-License-Identifier: BSD-3-Clause
#include "parallel/gradient_bucket.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/mul.h>
#include <c10/core/Event.h>
#include <c10/core/StreamGuard.h>
#include <c10/core/impl/VirtualGuardImpl.h>

#include <algorithm>

namespace lockstep {
namespace {

// Gradients begin on cache lines, so that the kernels that write them need not start askew.
constexpr std::size_t kAlignmentBytes = 64;

std::size_t round_up(std::size_t elements, at::ScalarType dtype) {
  const std::size_t step = std::max<std::size_t>(1, kAlignmentBytes / c10::elementSize(dtype));
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

}  // namespace

std::size_t GradientBucket::elements_for(const BucketPlan& plan,
                                         const std::vector<GradientShape>& shapes) {
  std::size_t elements = 0;
  for (const std::size_t index : plan.parameters) {
    elements += round_up(shapes[index].elements, plan.dtype);
  }
  return elements;
}

GradientBucket::GradientBucket(const BucketPlan& plan, at::Tensor flat, ProcessGroup::Share share,
                               const std::vector<at::Tensor>& parameters, std::string name)
    : parameters_(plan.parameters),
      flat_(std::move(flat)),
      name_(std::move(name)),
      share_(share),
      has_taken_(plan.parameters.size(), false),
      missing_(plan.parameters.size()) {
  std::size_t offset = 0;
  for (const std::size_t index : parameters_) {
    views_.push_back(make_view(flat_, parameters[index], offset));
    offsets_.push_back(static_cast<std::int64_t>(offset));
    offset += round_up(static_cast<std::size_t>(parameters[index].numel()), plan.dtype);
  }
}

bool GradientBucket::is_view(std::size_t place, const at::Tensor& gradient) const {
  const at::Tensor& view = views_[place];
  return gradient.defined() && gradient.layout() == at::kStrided &&
         gradient.device() == view.device() && gradient.const_data_ptr() == view.const_data_ptr() &&
         gradient.scalar_type() == view.scalar_type() && gradient.strides() == view.strides() &&
         !gradient.is_conj() && !gradient.is_neg();
}

void GradientBucket::take(std::size_t place, const at::Tensor& parameter, double scale) {
  follow_stream();
  const at::Tensor& view = views_[place];
  const at::Tensor& gradient = parameter.grad();
  if (has_taken_[place]) {
    gather();
    if (gradient.defined()) view.add_(gradient, scale);
  } else if (!gradient.defined()) {
    view.zero_();
  } else if (is_view(place, gradient)) {
    if (scale != 1) view.mul_(scale);
  } else if (scale != 1) {
    at::mul_out(const_cast<at::Tensor&>(view), gradient, at::scalar_tensor(scale, at::kDouble));
  } else {
    copy(place, gradient);
  }
  // Also frees what autograd allocated while it is still warm in the cache; the next gradient gets
  // that memory.
  parameter.mutable_grad().reset();
  if (!has_taken_[place]) --missing_;
  has_taken_[place] = true;
}

void GradientBucket::copy(std::size_t place, const at::Tensor& gradient) {
  const at::Tensor& view = views_[place];
  const std::int64_t begin = offsets_[place];
  const std::int64_t end = begin + view.numel();
  const std::int64_t own_begin = std::clamp(share_.start, begin, end);
  const std::int64_t own_end = std::clamp(share_.start + share_.count, begin, end);
  const bool is_alike =
      gradient.scalar_type() == view.scalar_type() && gradient.strides() == view.strides() &&
      gradient.is_non_overlapping_and_dense() && !gradient.is_conj() && !gradient.is_neg();
  if (!is_alike || own_begin == own_end) {
    view.copy_(gradient);
    return;
  }
  const at::Tensor values = gradient.as_strided({gradient.numel()}, {1});
  for (const auto& [from, to] : {std::pair(begin, own_begin), std::pair(own_end, end)}) {
    if (from == to) continue;
    flat_.narrow(0, from, to - from).copy_(values.narrow(0, from - begin, to - from));
  }
  const ProcessGroup::Part part{own_begin, own_end - own_begin, gradient, own_begin - begin};
  const auto is_behind = [&](const ProcessGroup::Part& other) { return other.start > own_begin; };
  parts_.insert(std::find_if(parts_.begin(), parts_.end(), is_behind), part);
}

void GradientBucket::gather() {
  for (const ProcessGroup::Part& part : parts_) {
    const at::Tensor values = part.values.as_strided({part.values.numel()}, {1});
    flat_.narrow(0, part.start, part.count).copy_(values.narrow(0, part.offset, part.count));
  }
  parts_.clear();
}

void GradientBucket::take_nothing(std::size_t place) {
  follow_stream();
  views_[place].zero_();
  if (!has_taken_[place]) --missing_;
  has_taken_[place] = true;
}

void GradientBucket::give(std::size_t place, const at::Tensor& parameter) const {
  const at::Tensor& view = views_[place];
  const bool is_alike = parameter.scalar_type() == view.scalar_type();
  parameter.mutable_grad() = is_alike ? view : view.to(parameter.scalar_type());
}

void GradientBucket::follow_stream() {
  const c10::Device device = flat_.device();
  if (device.is_cpu()) return;
  const c10::impl::VirtualGuardImpl backend(device.type());
  const c10::Stream current = backend.getStream(device);
  if (stream_ && *stream_ != current) {
    c10::Event event(device.type());
    event.record(*stream_);
    event.block(current);
  }
  stream_ = current;
}

void GradientBucket::launch(ProcessGroup& group) {
  const c10::OptionalStreamGuard guard(stream_);
  launched_at_ = std::chrono::steady_clock::now();
  const auto scope = group.with(CallOptions().name(name_));
  work_ = group.all_reduce(flat_, parts_, ReduceOp::Avg);
}

void GradientBucket::launch(ProcessGroup& group, const CommunicationHook& hook,
                            const GradientBucketView& view) {
  const c10::OptionalStreamGuard guard(stream_);
  launched_at_ = std::chrono::steady_clock::now();
  gather();
  const auto scope = group.with(CallOptions().name(name_));
  result_ = hook(group, view);
}

bool GradientBucket::is_reduced() {
  return work_ ? work_->is_completed() : result_ && result_->is_completed();
}

void GradientBucket::wait() {
  if (work_) return work_->wait();
  const at::Tensor& result = result_->wait();
  TORCH_CHECK(result.defined() && result.numel() == flat_.numel(),
              "the communication hook's future of ", name_, " has ",
              result.defined() ? result.numel() : 0, " elements; the bucket has ", flat_.numel());
  if (!result.is_alias_of(flat_) || result.const_data_ptr() != flat_.const_data_ptr()) {
    flat_.copy_(result.view(flat_.sizes()));
  }
}

void GradientBucket::reset() {
  std::fill(has_taken_.begin(), has_taken_.end(), false);
  missing_ = parameters_.size();
  work_.reset();
  result_.reset();
  stream_.reset();
  parts_.clear();
}

}  // namespace lockstep
