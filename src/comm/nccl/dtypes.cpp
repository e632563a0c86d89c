// SPDX-License-Identifier: BSD-3-Clause
#include "comm/nccl/dtypes.h"

#include <c10/util/BFloat16.h>
#include <c10/util/Exception.h>
#include <c10/util/Float8_e4m3fn.h>
#include <c10/util/Float8_e5m2.h>
#include <c10/util/Half.h>

#include <cstring>

namespace lockstep {
namespace {

using native::NcclReduction;
using native::NcclType;

std::optional<NcclType> type_of(at::ScalarType dtype) {
  switch (dtype) {
    case at::kChar:
      return NcclType::Int8;
    case at::kByte:
    case at::kBool:
      return NcclType::Uint8;
    case at::kInt:
      return NcclType::Int32;
    case at::kLong:
      return NcclType::Int64;
    case at::kHalf:
      return NcclType::Float16;
    case at::kFloat:
    case at::kComplexFloat:
      return NcclType::Float32;
    case at::kDouble:
    case at::kComplexDouble:
      return NcclType::Float64;
    case at::kBFloat16:
      return NcclType::Bfloat16;
    case at::kFloat8_e4m3fn:
      return NcclType::Float8e4m3;
    case at::kFloat8_e5m2:
      return NcclType::Float8e5m2;
    default:
      return std::nullopt;
  }
}

// A byte of a Bool is 0 or 1: the largest is "any", the smallest "all".
std::optional<NcclReduction> op_of_bools(ReduceOp::Kind kind) {
  switch (kind) {
    case ReduceOp::Kind::Sum:
    case ReduceOp::Kind::Max:
    case ReduceOp::Kind::BitOr:
      return NcclReduction::Max;
    case ReduceOp::Kind::Product:
    case ReduceOp::Kind::Min:
    case ReduceOp::Kind::BitAnd:
      return NcclReduction::Min;
    default:
      return std::nullopt;
  }
}

std::optional<NcclReduction> op_of(at::ScalarType dtype, ReduceOp::Kind kind) {
  if (dtype == at::kBool) return op_of_bools(kind);
  const bool is_complex = c10::isComplexType(dtype);
  switch (kind) {
    case ReduceOp::Kind::Sum:
    case ReduceOp::Kind::PreMulSum:
      return NcclReduction::Sum;
    case ReduceOp::Kind::Avg:
      return NcclReduction::Average;
    case ReduceOp::Kind::Product:  // NCCL would multiply the parts of a complex number
      return is_complex ? std::nullopt : std::optional(NcclReduction::Product);
    case ReduceOp::Kind::Min:
      return is_complex ? std::nullopt : std::optional(NcclReduction::Min);
    case ReduceOp::Kind::Max:
      return is_complex ? std::nullopt : std::optional(NcclReduction::Max);
    default:
      return std::nullopt;
  }
}

// NCCL ends the communicator where a device that is older shall add such values.
constexpr int kFloat8Capability = 90;

bool is_float8(NcclType type) {
  return type == NcclType::Float8e4m3 || type == NcclType::Float8e5m2;
}

template <typename T>
std::array<std::byte, 8> value_bytes(T value) {
  std::array<std::byte, 8> bytes{};
  std::memcpy(bytes.data(), &value, sizeof(value));
  return bytes;
}

std::array<std::byte, 8> factor_of(NcclType type, double factor) {
  const auto single = static_cast<float>(factor);
  switch (type) {
    case NcclType::Float16:
      return value_bytes(c10::Half(single));
    case NcclType::Bfloat16:
      return value_bytes(c10::BFloat16(single));
    case NcclType::Float8e4m3:
      return value_bytes(c10::Float8_e4m3fn(single));
    case NcclType::Float8e5m2:
      return value_bytes(c10::Float8_e5m2(single));
    case NcclType::Float64:
      return value_bytes(factor);
    default:
      return value_bytes(single);
  }
}

}  // namespace

NcclReductionPlan plan_nccl_reduction(const Collective& call, int capability) {
  const char* name = to_string(call.op);
  const at::ScalarType dtype = call.dtype();
  const ReduceOp op = call.reduce_op;
  const auto type = type_of(dtype);
  TORCH_CHECK(type, name, ": NCCL cannot reduce ", dtype,
              " tensors; convert them, or use CPU tensors");
  const auto native_op = op_of(dtype, op.kind());
  TORCH_CHECK(native_op, name, ": NCCL has no ", to_string(op), " of ", dtype,
              " tensors; use CPU tensors for it");
  TORCH_CHECK(!is_float8(*type) || capability >= kFloat8Capability, name, ": a reduction of ",
              dtype, " tensors needs compute capability 9.0, device ", call.device(), " has ",
              capability / 10, ".", capability % 10, "; convert them, or use CPU tensors");
  NcclReductionPlan plan;
  plan.type = *type;
  plan.per_element = c10::isComplexType(dtype) ? 2 : 1;
  plan.op = *native_op;
  if (op.kind() == ReduceOp::Kind::PreMulSum) plan.factor = factor_of(*type, op.factor());
  return plan;
}

}  // namespace lockstep
