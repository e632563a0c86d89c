// SPDX-License-Identifier: BSD-3-Clause
#include "training/safetensors/dtypes.h"

#include <algorithm>
#include <array>

namespace lockstep::training {
namespace {

using c10::ScalarType;

// In the order of `Dtype` in the reference, safetensors/src/tensor.rs.
constexpr std::array kDtypes{
    SafetensorsDtype{"BOOL", 8, ScalarType::Bool, 0},
    SafetensorsDtype{"F4", 4, ScalarType::Float4_e2m1fn_x2, 1},
    SafetensorsDtype{"F6_E2M3", 6, std::nullopt, 2},
    SafetensorsDtype{"F6_E3M2", 6, std::nullopt, 3},
    SafetensorsDtype{"U8", 8, ScalarType::Byte, 4},
    SafetensorsDtype{"I8", 8, ScalarType::Char, 5},
    SafetensorsDtype{"F8_E5M2", 8, ScalarType::Float8_e5m2, 6},
    SafetensorsDtype{"F8_E4M3", 8, ScalarType::Float8_e4m3fn, 7},
    SafetensorsDtype{"F8_E8M0", 8, ScalarType::Float8_e8m0fnu, 8},
    SafetensorsDtype{"F8_E4M3FNUZ", 8, ScalarType::Float8_e4m3fnuz, 9},
    SafetensorsDtype{"F8_E5M2FNUZ", 8, ScalarType::Float8_e5m2fnuz, 10},
    SafetensorsDtype{"I16", 16, ScalarType::Short, 11},
    SafetensorsDtype{"U16", 16, ScalarType::UInt16, 12},
    SafetensorsDtype{"F16", 16, ScalarType::Half, 13},
    SafetensorsDtype{"BF16", 16, ScalarType::BFloat16, 14},
    SafetensorsDtype{"I32", 32, ScalarType::Int, 15},
    SafetensorsDtype{"U32", 32, ScalarType::UInt32, 16},
    SafetensorsDtype{"F32", 32, ScalarType::Float, 17},
    SafetensorsDtype{"C64", 64, ScalarType::ComplexFloat, 18},
    SafetensorsDtype{"F64", 64, ScalarType::Double, 19},
    SafetensorsDtype{"I64", 64, ScalarType::Long, 20},
    SafetensorsDtype{"U64", 64, ScalarType::UInt64, 21},
};

template <class Claim>
const SafetensorsDtype* find(const Claim& claim) {
  const auto* found = std::find_if(kDtypes.begin(), kDtypes.end(), claim);
  return found == kDtypes.end() ? nullptr : found;
}

}  // namespace

const SafetensorsDtype* find_safetensors_dtype(std::string_view name) {
  return find([&](const SafetensorsDtype& one) { return one.name == name; });
}

const SafetensorsDtype* find_safetensors_dtype(c10::ScalarType type) {
  return find([&](const SafetensorsDtype& one) { return one.type == type; });
}

}  // namespace lockstep::training
