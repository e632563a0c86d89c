// SPDX-License-Identifier: BSD-3-Clause
#include "training/background/file_job.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>

#include <algorithm>
#include <span>
#include <utility>

namespace lockstep::training {
namespace {

// Lines wait so long at most, on a slow disk a tenth of a second.
constexpr std::size_t kPieceBytes = std::size_t{4} << 20;
// The disk is waited for in parts, too: not for all of a large file at its end.
constexpr std::uint64_t kSyncBytes = std::uint64_t{16} << 20;
constexpr std::int64_t kAlignment = 64;

std::int64_t room_of(const at::Tensor& tensor) {
  return (static_cast<std::int64_t>(tensor.nbytes()) + kAlignment - 1) / kAlignment * kAlignment;
}

bool has_values(const at::Tensor& tensor) {
  return tensor.defined() && tensor.layout() == c10::kStrided && !tensor.is_meta() &&
         !tensor.is_quantized();
}

}  // namespace

bool TensorJob::step(native::FileSystem& files) {
  if (!file_) {
    file_.emplace(path(), native::AtomicFile::Kind::Nameless, files);
    file_->reserve(plan_.bytes);
  }
  std::size_t budget = kPieceBytes;
  while (budget > 0 && part_ <= plan_.tensors.size()) {
    const auto rest = part().subspan(done_);
    const auto piece = rest.first(std::min(rest.size(), budget));
    file_->write(offset_, piece);
    offset_ += piece.size();
    done_ += piece.size();
    since_sync_ += piece.size();
    budget -= piece.size();
    if (done_ < part().size()) break;
    ++part_;
    done_ = 0;
  }
  if (part_ <= plan_.tensors.size()) {
    if (since_sync_ >= kSyncBytes) {
      file_->sync();
      since_sync_ = 0;
    }
    return false;
  }
  file_->publish();
  return true;
}

std::span<const std::byte> TensorJob::part() const {
  if (part_ == 0) return std::as_bytes(std::span(plan_.header));
  const at::Tensor& tensor = plan_.tensors[part_ - 1].second;
  return {static_cast<const std::byte*>(tensor.const_data_ptr()), tensor.nbytes()};
}

std::map<std::string, at::Tensor> CopyMemory::copy(const std::map<std::string, at::Tensor>& tensors,
                                                   at::Tensor& memory) {
  const at::NoGradGuard no_gradients;
  std::int64_t bytes = 0;
  for (const auto& [name, tensor] : tensors) bytes += has_values(tensor) ? room_of(tensor) : 0;
  {
    const std::lock_guard lock(mutex_);
    memory = std::exchange(spare_, at::Tensor());
  }
  if (!memory.defined() || memory.numel() < bytes) {
    memory = at::empty({bytes}, at::TensorOptions().dtype(at::kByte));
  }
  std::map<std::string, at::Tensor> copies;
  std::int64_t offset = 0;
  for (const auto& [name, tensor] : tensors) {
    if (!has_values(tensor)) {
      copies.emplace(name, tensor);
      continue;
    }
    at::Tensor copy = memory.narrow(0, offset, static_cast<std::int64_t>(tensor.nbytes()))
                          .view(tensor.scalar_type())
                          .view(tensor.sizes());
    copy.copy_(tensor.detach());
    offset += room_of(tensor);
    copies.emplace(name, std::move(copy));
  }
  return copies;
}

void CopyMemory::give_back(at::Tensor memory) {
  const std::lock_guard lock(mutex_);
  if (!spare_.defined() || spare_.numel() < memory.numel()) spare_ = std::move(memory);
}

}  // namespace lockstep::training
