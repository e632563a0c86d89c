// SPDX-License-Identifier: BSD-3-Clause
#include "parallel/buckets/storage_aliases.h"

#include <torch/csrc/autograd/variable.h>

namespace lockstep {

void StorageAliases::add(const at::Tensor& tensor) {
  tensors_.insert(tensor.unsafeGetTensorImpl());
  const auto* view = torch::autograd::impl::get_view_autograd_meta(tensor);
  if (view == nullptr) return;
  if (view->has_bw_view()) ++bases_[view->get_backward_view().base_.unsafeGetTensorImpl()];
  if (view->has_fw_view() && !view->shared_view_info()) {
    ++bases_[view->get_forward_view().base_.unsafeGetTensorImpl()];
  }
}

bool StorageAliases::are_all(const c10::Storage& storage) const {
  std::size_t count = tensors_.size();
  for (const auto& [base, references] : bases_) {
    if (tensors_.count(base) != 0) continue;
    if (!base->has_storage() || !base->storage().is_alias_of(storage)) continue;
    if (c10::raw::intrusive_ptr::use_count(base) != references) return false;
    ++count;
  }
  return storage.use_count() == count;
}

}  // namespace lockstep
