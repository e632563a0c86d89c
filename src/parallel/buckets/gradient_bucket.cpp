// SPDX-License-Identifier: BSD-3-Clause
#include "parallel/buckets/gradient_bucket.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/empty_strided.h>
#include <ATen/ops/mul.h>
#include <ATen/ops/scalar_tensor.h>
#include <c10/core/Event.h>
#include <c10/core/StreamGuard.h>
#include <c10/core/impl/COW.h>
#include <c10/core/impl/VirtualGuardImpl.h>
#include <torch/csrc/autograd/variable.h>

#include <algorithm>
#include <map>
#include <set>

#include "parallel/buckets/storage_memory.h"

namespace lockstep {
namespace {

// Gradients begin on cache lines, so that the kernels that write them need not start askew.
constexpr std::size_t kAlignmentBytes = 64;

std::size_t round_up(std::size_t elements, at::ScalarType dtype) {
  const std::size_t step = std::max<std::size_t>(1, kAlignmentBytes / c10::elementSize(dtype));
  return (elements + step - 1) / step * step;
}

// As autograd lays gradients out: strides of a dense parameter are kept (channels_last), others
// become contiguous.
at::Tensor shape_of(const at::Tensor& parameter, at::ScalarType dtype) {
  const auto options = at::TensorOptions(dtype).device(at::kMeta);
  return parameter.is_non_overlapping_and_dense()
             ? at::empty_strided(parameter.sizes(), parameter.strides(), options)
             : at::empty(parameter.sizes(), options);
}

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

// Where there is only one place along a dimension, its stride means nothing.
bool have_same_strides(const at::Tensor& a, const at::Tensor& b) {
  for (std::int64_t i = 0; i < a.dim(); ++i) {
    if (a.size(i) > 1 && a.stride(i) != b.stride(i)) return false;
  }
  return true;
}

/// The tensors that are known to look at a gradient's memory.
class Onlookers {
 public:
  void add(const at::Tensor& tensor) {
    tensors_.insert(tensor.unsafeGetTensorImpl());
    const auto* view = torch::autograd::impl::get_view_autograd_meta(tensor);
    if (view == nullptr) return;
    if (view->has_bw_view()) ++bases_[view->get_backward_view().base_.unsafeGetTensorImpl()];
    if (view->has_fw_view() && !view->shared_view_info()) {
      ++bases_[view->get_forward_view().base_.unsafeGetTensorImpl()];
    }
  }
  /// Whether these, and what they are views of, are all there are.
  [[nodiscard]] bool are_all(const c10::Storage& storage) const {
    std::size_t count = tensors_.size();
    for (const auto& [base, references] : bases_) {
      if (tensors_.count(base) != 0) continue;
      if (!base->has_storage() || !base->storage().is_alias_of(storage)) continue;
      if (c10::raw::intrusive_ptr::use_count(base) != references) return false;
      ++count;
    }
    return storage.use_count() == count;
  }

 private:
  std::set<c10::TensorImpl*> tensors_;
  std::map<c10::TensorImpl*, std::size_t> bases_;
};

// Autograd makes a parameter's gradient of a tensor that nobody else holds, but others may look at
// the same memory: the gradient may be a view of one that is still to be read.
bool has_memory_of_its_own(const at::Tensor& gradient, const at::Tensor& incoming) {
  if (c10::impl::cow::is_cow_data_ptr(gradient.storage().data_ptr())) return false;
  Onlookers onlookers;
  onlookers.add(gradient);
  const bool is_same = incoming.defined() && incoming.has_storage() &&
                       incoming.storage().is_alias_of(gradient.storage());
  if (is_same) onlookers.add(incoming);
  return onlookers.are_all(gradient.storage());
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

GradientBucket::GradientBucket(const BucketPlan& plan, at::Tensor flat,
                               const std::vector<at::Tensor>& parameters, std::string name)
    : parameters_(plan.parameters),
      dtype_(plan.dtype),
      device_(plan.device),
      flat_(std::move(flat)),
      bytes_(flat_.nbytes()),
      name_(std::move(name)),
      has_taken_(plan.parameters.size(), false),
      missing_(plan.parameters.size()) {
  std::size_t offset = 0;
  if (!device_.is_cpu()) flat_.zero_();
  for (const std::size_t index : parameters_) {
    shapes_.push_back(shape_of(parameters[index], dtype_));
    begins_.push_back(offset);
    views_.push_back(make_view(flat_, shapes_.back(), offset));
    const auto elements = static_cast<std::size_t>(parameters[index].numel());
    const std::size_t end = offset + round_up(elements, plan.dtype);
    // What lies between the gradients travels with them; it may be left of another division.
    if (device_.is_cpu()) clear(flat_, offset + elements, end);
    offset = end;
  }
}

GradientBucket::GradientBucket(const BucketPlan& plan, std::shared_ptr<GradientArena> arena,
                               std::vector<std::size_t> numbers, at::Tensor places,
                               const std::vector<at::Tensor>& parameters, std::string name)
    : parameters_(plan.parameters),
      dtype_(plan.dtype),
      device_(plan.device),
      arena_(std::move(arena)),
      numbers_(std::move(numbers)),
      places_(std::move(places)),
      name_(std::move(name)),
      views_(plan.parameters.size()),
      has_taken_(plan.parameters.size(), false),
      missing_(plan.parameters.size()) {
  for (const std::size_t index : parameters_) {
    shapes_.push_back(shape_of(parameters[index], dtype_));
    bytes_ += round_up(static_cast<std::size_t>(parameters[index].numel()), dtype_) *
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
  return is_laid_out_as(view, gradient) && gradient.const_data_ptr() == view.const_data_ptr();
}

void GradientBucket::take(std::size_t place, const at::Tensor& parameter, double scale,
                          const at::Tensor& incoming, bool leaves_it) {
  follow_stream();
  const at::Tensor& gradient = parameter.grad();
  if (has_taken_[place]) {
    if (gradient.defined() && scale != 0) views_[place].add_(gradient, scale);
  } else {
    if (arena_) {
      settle_in_arena(place, gradient, incoming, leaves_it);
    } else {
      settle(place, gradient, leaves_it);
    }
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
  // Also frees what autograd allocated while it is still warm in the cache; the next gradient gets
  // that memory.
  parameter.mutable_grad().reset();
  count_as_taken(place);
}

void GradientBucket::settle_in_arena(std::size_t place, const at::Tensor& gradient,
                                     const at::Tensor& incoming, bool leaves_it) {
  const at::Tensor& shape = shapes_[place];
  if (leaves_it) {
    views_[place] = arena_->make(numbers_[place], shape);
  } else if (is_laid_out_as(shape, gradient) && has_memory_of_its_own(gradient, incoming) &&
             arena_->take(numbers_[place], gradient)) {
    views_[place] = gradient;
  } else {
    const bool may_be_there = gradient.defined() && gradient.layout() == at::kStrided;
    views_[place] = arena_->make(numbers_[place], shape, may_be_there ? gradient : at::Tensor());
  }
}

void GradientBucket::settle(std::size_t place, const at::Tensor& gradient, bool leaves_it) {
  if (leaves_it || !is_view(place, gradient)) vacate(place);
}

void GradientBucket::vacate(std::size_t place) {
  at::Tensor& view = views_[place];
  if (view.use_count() == 1 && view.storage().use_count() == 1) return;
  // What comes back keeps all of `flat_`.
  static_cast<void>(move_to_ordinary_memory(view.storage()));
  view = make_view(flat_, shapes_[place], begins_[place]);
}

void GradientBucket::vacate() {
  for (std::size_t place = 0; place < views_.size(); ++place) vacate(place);
}

void GradientBucket::note_waiting(std::size_t place, const at::Tensor& gradient,
                                  const at::Tensor& incoming) {
  if (arena_ && is_laid_out_as(shapes_[place], gradient) &&
      has_memory_of_its_own(gradient, incoming)) {
    arena_->adopt(numbers_[place], gradient);
  }
}

void GradientBucket::count_as_taken(std::size_t place) {
  if (!has_taken_[place]) --missing_;
  has_taken_[place] = true;
}

void GradientBucket::take_nothing(std::size_t place) {
  if (has_taken_[place]) return;
  follow_stream();
  if (arena_) {
    settle_in_arena(place, {}, {}, false);
  } else {
    settle(place, {}, false);
  }
  views_[place].zero_();
  count_as_taken(place);
}

std::vector<at::Tensor> GradientBucket::parts() const {
  std::vector<at::Tensor> parts;
  for (std::size_t place = 0; place < shapes_.size(); ++place) {
    const auto begin = flat_.storage_offset() + static_cast<std::int64_t>(begins_[place]);
    parts.push_back(
        at::empty({0}, flat_.options())
            .set_(flat_.storage(), begin, shapes_[place].sizes(), shapes_[place].strides()));
  }
  return parts;
}

void GradientBucket::multiply(double factor) {
  if (flat_.defined()) {
    flat_.mul_(factor);
  } else {
    for (const at::Tensor& view : views_) view.mul_(factor);
  }
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

void GradientBucket::launch(ProcessGroup& group) {
  const c10::OptionalStreamGuard guard(stream_);
  launched_at_ = std::chrono::steady_clock::now();
  const auto scope = group.with(CallOptions().name(name_));
  if (!arena_) {
    work_ = group.all_reduce(flat_, ReduceOp::Avg);
    return;
  }
  auto* const places = places_.mutable_data_ptr<std::int64_t>();
  ProcessGroup::Pieces pieces{arena_->memory(), places_, {}};
  for (std::size_t place = 0; place < views_.size(); ++place) {
    places[place] = *arena_->place_of(views_[place]);
    pieces.counts.push_back(views_[place].numel());
  }
  work_ = group.all_reduce(pieces, ReduceOp::Avg);
}

void GradientBucket::launch(ProcessGroup& group, const CommunicationHook& hook,
                            const GradientBucketView& view) {
  const c10::OptionalStreamGuard guard(stream_);
  launched_at_ = std::chrono::steady_clock::now();
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
  copied_bytes_ = 0;
  if (!arena_) return;
  std::fill(views_.begin(), views_.end(), at::Tensor());
}

}  // namespace lockstep
