// SPDX-License-Identifier: BSD-3-Clause
#include <ATen/ops/resolve_conj.h>
#include <ATen/ops/resolve_neg.h>
#include <c10/core/Storage.h>
#include <c10/core/TensorImpl.h>
#include <c10/core/TensorOptions.h>
#include <c10/util/Exception.h>
#include <lockstep/workers/tensor_codec.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <utility>
#include <vector>

namespace lockstep::workers {
namespace {

enum class Form : std::uint8_t { Undefined, InBlock, InPart };

// The context of the storage of a tensor that lies in memory of a payload.
struct TensorMemory {
  std::shared_ptr<PayloadMemory> memory;
};

void drop_memory(void* context) {
  delete static_cast<TensorMemory*>(context);
}

// `elements`: from the first to behind the last.
at::Tensor make_tensor(std::byte* place, std::shared_ptr<PayloadMemory> memory,
                       at::IntArrayRef sizes, at::IntArrayRef strides, std::int64_t elements,
                       at::ScalarType dtype) {
  auto* context = new TensorMemory{std::move(memory)};
  c10::DataPtr data(place, context, &drop_memory, c10::kCPU);
  const auto type = c10::scalarTypeToTypeMeta(dtype);
  auto storage = c10::make_intrusive<c10::StorageImpl>(
      c10::StorageImpl::use_byte_size_t(), static_cast<std::size_t>(elements) * type.itemsize(),
      std::move(data), nullptr, /*resizable=*/false);
  auto tensor = at::detail::make_tensor<c10::TensorImpl>(
      c10::Storage(std::move(storage)), at::TensorOptions(dtype).computeDispatchKey(), type);
  tensor.unsafeGetTensorImpl()->set_sizes_and_strides(sizes, strides);
  return tensor;
}

std::int64_t elements_of(at::IntArrayRef sizes, at::IntArrayRef strides) {
  std::int64_t last = 0;
  for (std::size_t i = 0; i < sizes.size(); ++i) {
    if (sizes[i] == 0) return 0;
    last += (sizes[i] - 1) * strides[i];
  }
  return last + 1;
}

// The block of this pool in which the tensor lies, if a reader may have the tensor there.
std::shared_ptr<PayloadMemory> block_of(const at::Tensor& tensor, const void* pool) {
  if (pool == nullptr || tensor.is_conj() || tensor.is_neg()) return nullptr;
  const auto& data = tensor.storage().data_ptr();
  if (data.get_deleter() != &drop_memory) return nullptr;
  const auto& memory = static_cast<const TensorMemory*>(data.get_context())->memory;
  if (!memory || memory->pool != pool || !memory->entry) return nullptr;
  const bool is_alone = tensor.use_count() == 1 && tensor.storage().use_count() == 1;
  if (memory->is_output && !is_alone) return nullptr;
  return memory;
}

void check(const at::Tensor& tensor) {
  TORCH_CHECK(tensor.device().is_cpu(), "TaskPool: a tensor on ", tensor.device(),
              " is an argument or a result; worker processes share memory of the CPU alone: pass "
              "tensor.cpu()");
  TORCH_CHECK(tensor.layout() == at::kStrided && !tensor.is_quantized(),
              "TaskPool: an argument or a result is a tensor of layout ", tensor.layout(),
              tensor.is_quantized() ? ", quantized" : "",
              "; only dense tensors go to another process");
  TORCH_CHECK(!tensor.requires_grad(),
              "TaskPool: an argument or a result is a tensor that requires a gradient, and the "
              "graph of autograd does not go to another process; pass tensor.detach()");
}

void write_header(PayloadWriter& writer, Form form, const at::Tensor& tensor, std::size_t place,
                  std::size_t offset) {
  writer.write_value(form);
  writer.write_value(tensor.scalar_type());
  writer.write_value(static_cast<std::uint32_t>(tensor.dim()));
  writer.write_value<std::uint64_t>(place);
  writer.write_value<std::uint64_t>(offset);
  const auto dims = static_cast<std::size_t>(tensor.dim()) * sizeof(std::int64_t);
  writer.write(tensor.sizes().data(), dims);
  writer.write(tensor.strides().data(), dims);
}

std::vector<std::int64_t> read_dims(PayloadReader& reader, std::size_t count) {
  std::vector<std::int64_t> dims(count);
  const auto bytes = reader.read(count * sizeof(std::int64_t));
  if (!bytes.empty()) std::memcpy(dims.data(), bytes.data(), bytes.size());
  return dims;
}

}  // namespace

void write_tensor(PayloadWriter& writer, const at::Tensor& tensor) {
  if (!tensor.defined()) return writer.write_value(Form::Undefined);
  check(tensor);
  if (auto block = block_of(tensor, writer.pool())) {
    const auto offset = tensor.numel() == 0
                            ? 0
                            : static_cast<const std::byte*>(tensor.const_data_ptr()) - block->data;
    const auto number = writer.add_block(std::move(block));
    return write_header(writer, Form::InBlock, tensor, number, static_cast<std::size_t>(offset));
  }
  auto plain = tensor.resolve_conj().resolve_neg();
  // Channels last and permuted tensors keep their strides.
  if (!plain.is_non_overlapping_and_dense()) plain = plain.contiguous();
  const auto* data = plain.const_data_ptr();
  const auto bytes = plain.nbytes();
  const auto owner = std::make_shared<at::Tensor>(plain);
  const auto offset = writer.add_part(data, bytes, owner);
  write_header(writer, Form::InPart, *owner, 0, offset);
}

at::Tensor read_tensor(PayloadReader& reader) {
  const auto form = reader.read_value<Form>();
  if (form == Form::Undefined) return {};
  const auto dtype = reader.read_value<at::ScalarType>();
  const auto count = static_cast<std::size_t>(reader.read_value<std::uint32_t>());
  const auto number = static_cast<std::size_t>(reader.read_value<std::uint64_t>());
  const auto offset = static_cast<std::size_t>(reader.read_value<std::uint64_t>());
  const auto sizes = read_dims(reader, count);
  const auto strides = read_dims(reader, count);
  const auto elements = elements_of(sizes, strides);
  if (form == Form::InPart) {
    return make_tensor(reader.part(offset), reader.memory(), sizes, strides, elements, dtype);
  }
  const auto& block = reader.block(number);
  return make_tensor(block->data + offset, block, sizes, strides, elements, dtype);
}

at::Tensor tensor_in(std::shared_ptr<PayloadMemory> memory, at::IntArrayRef sizes,
                     at::ScalarType dtype) {
  std::vector<std::int64_t> strides(sizes.size());
  std::int64_t stride = 1;
  for (std::size_t i = sizes.size(); i > 0; --i) {
    strides[i - 1] = stride;
    stride *= std::max<std::int64_t>(sizes[i - 1], 1);
  }
  auto* place = memory->data;
  return make_tensor(place, std::move(memory), sizes, strides, elements_of(sizes, strides), dtype);
}

}  // namespace lockstep::workers
