// SPDX-License-Identifier: BSD-3-Clause
#include "parallel/buckets/flat_bucket.h"

#include <ATen/ops/empty.h>

#include <utility>

#include "parallel/buckets/storage_memory.h"

namespace lockstep {
namespace {

// Not a view in autograd's sense: LibTorch's optimizers detach gradients in place, which views
// refuse.
at::Tensor make_view(const at::Tensor& flat, const at::Tensor& shape, std::size_t offset) {
  const auto begin = static_cast<std::size_t>(flat.storage_offset()) + offset;
  const auto storage = make_storage_in(
      flat.storage(), begin * static_cast<std::size_t>(flat.element_size()), shape.nbytes());
  return at::empty({0}, flat.options()).set_(storage, 0, shape.sizes(), shape.strides());
}

void clear(const at::Tensor& flat, std::size_t begin, std::size_t end) {
  if (begin == end) return;
  flat.narrow(0, static_cast<std::int64_t>(begin), static_cast<std::int64_t>(end - begin)).zero_();
}

}  // namespace

std::size_t FlatBucket::elements_for(const BucketSpec& spec,
                                     const std::vector<GradientShape>& shapes) {
  std::size_t elements = 0;
  for (const std::size_t index : spec.parameters) {
    elements += padded(shapes[index].elements, spec.dtype);
  }
  return elements;
}

FlatBucket::FlatBucket(const BucketSpec& spec, at::Tensor flat,
                       const std::vector<at::Tensor>& parameters, std::string name, bool is_summed)
    : GradientBucket(spec, parameters, std::move(name)),
      flat_(std::move(flat)),
      is_summed_(is_summed) {
  std::size_t offset = 0;
  if (!spec.device.is_cpu()) flat_.zero_();
  for (std::size_t place = 0; place < places(); ++place) {
    begins_.push_back(offset);
    own_view(place) = make_view(flat_, shape(place), offset);
    const auto elements = static_cast<std::size_t>(shape(place).numel());
    const std::size_t end = offset + padded(elements, spec.dtype);
    // What lies between the gradients travels with them; it may be left of other buckets.
    if (spec.device.is_cpu()) clear(flat_, offset + elements, end);
    offset = end;
  }
}

void FlatBucket::prepare_view(std::size_t place, const at::Tensor& gradient,
                              const at::Tensor& /*incoming*/, bool leaves_it) {
  if (leaves_it || !is_view(place, gradient)) vacate(place);
}

void FlatBucket::vacate(std::size_t place) {
  at::Tensor& own = own_view(place);
  const bool is_unchanged = is_laid_out_as(shape(place), own);  // the program may transpose it
  if (is_unchanged && own.use_count() == 1 && own.storage().use_count() == 1) return;
  // The memory that is dropped here keeps all of `flat_`.
  static_cast<void>(move_to_ordinary_memory(own.storage()));
  own = make_view(flat_, shape(place), begins_[place]);
}

void FlatBucket::vacate() {
  for (std::size_t place = 0; place < places(); ++place) vacate(place);
}

// A waiting gradient is copied in at the end, wherever it lies.
void FlatBucket::note_waiting(std::size_t, const at::Tensor&, const at::Tensor&) {}

std::vector<at::Tensor> FlatBucket::parts() const {
  std::vector<at::Tensor> parts;
  for (std::size_t place = 0; place < places(); ++place) {
    const auto begin = flat_.storage_offset() + static_cast<std::int64_t>(begins_[place]);
    parts.push_back(
        at::empty({0}, flat_.options())
            .set_(flat_.storage(), begin, shape(place).sizes(), shape(place).strides()));
  }
  return parts;
}

void FlatBucket::multiply(double factor) {
  factor /= std::exchange(divisor_, 1);
  if (factor != 1) flat_.mul_(factor);
}

Work FlatBucket::all_reduce(ProcessGroup& group) {
  divisor_ = is_summed_ ? group.size() : 1;
  return group.all_reduce(flat_, is_summed_ ? ReduceOp::Sum : ReduceOp::Avg);
}

void FlatBucket::launch(ProcessGroup& group, const CommunicationHook& hook,
                        const GradientBucketView& view) {
  launch_by(group, [&] { result_ = hook(group, view); });
}

bool FlatBucket::is_launched() const noexcept {
  return result_ || GradientBucket::is_launched();
}

bool FlatBucket::is_reduced() {
  return result_ ? result_->is_completed() : GradientBucket::is_reduced();
}

void FlatBucket::wait() {
  if (!result_) return GradientBucket::wait();
  const at::Tensor& result = result_->wait();
  TORCH_CHECK(result.defined() && result.numel() == flat_.numel(),
              "the communication hook's future of ", name(), " has ",
              result.defined() ? result.numel() : 0, " elements; the bucket has ", flat_.numel());
  if (!result.is_alias_of(flat_) || result.const_data_ptr() != flat_.const_data_ptr()) {
    flat_.copy_(result.view(flat_.sizes()));
  }
}

void FlatBucket::reset() {
  GradientBucket::reset();
  divisor_ = 1;
  result_.reset();
}

}  // namespace lockstep
