// SPDX-License-Identifier: BSD-3-Clause
#include "native/nccl/nccl_library.h"

#include <cuda_runtime_api.h>
#include <dlfcn.h>
#include <nccl.h>

#include <cstring>

namespace lockstep::native {
namespace {

static_assert(static_cast<int>(NcclResult::InProgress) == ncclInProgress);
static_assert(static_cast<int>(NcclResult::RemoteError) == ncclRemoteError);
static_assert(static_cast<int>(NcclType::Uint8) == ncclUint8);
static_assert(static_cast<int>(NcclType::Uint64) == ncclUint64);
static_assert(static_cast<int>(NcclType::Float64) == ncclFloat64);
static_assert(static_cast<int>(NcclType::Bfloat16) == ncclBfloat16);
static_assert(static_cast<int>(NcclType::Float8e4m3) == ncclFloat8e4m3);
static_assert(static_cast<int>(NcclType::Float8e5m2) == ncclFloat8e5m2);
static_assert(static_cast<int>(NcclReduction::Product) == ncclProd);
static_assert(static_cast<int>(NcclReduction::Max) == ncclMax);
static_assert(static_cast<int>(NcclReduction::Min) == ncclMin);
static_assert(static_cast<int>(NcclReduction::Average) == ncclAvg);
static_assert(sizeof(NcclUniqueId) == sizeof(ncclUniqueId));

NcclResult result_of(ncclResult_t result) {
  return static_cast<NcclResult>(result);
}
ncclComm_t comm_of(void* comm) {
  return static_cast<ncclComm_t>(comm);
}
ncclDataType_t type_of(NcclType type) {
  return static_cast<ncclDataType_t>(type);
}
ncclRedOp_t op_of(NcclReduction op) {
  return static_cast<ncclRedOp_t>(op);
}
cudaStream_t stream_of(DeviceStream stream) {
  return static_cast<cudaStream_t>(stream);
}

bool is_device_memory(const void* data) {
  cudaPointerAttributes attributes{};
  if (cudaPointerGetAttributes(&attributes, data) == cudaSuccess) {
    return attributes.type == cudaMemoryTypeDevice;
  }
  static_cast<void>(cudaGetLastError());  // an answer, not an error for LibTorch to find
  return false;
}

ncclConfig_t non_blocking() {
  ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
  config.blocking = 0;
  return config;
}

class NcclLibrary final : public NcclApi {
 public:
  NcclResult unique_id(NcclUniqueId& id) override {
    ncclUniqueId native;
    const ncclResult_t result = ncclGetUniqueId(&native);
    if (result == ncclSuccess) std::memcpy(id.data(), native.internal, id.size());
    return result_of(result);
  }
  NcclResult comm_init(Comm* comm, int world_size, const NcclUniqueId& id, int rank) override {
    ncclUniqueId native;
    std::memcpy(native.internal, id.data(), id.size());
    ncclConfig_t config = non_blocking();
    return result_of(ncclCommInitRankConfig(reinterpret_cast<ncclComm_t*>(comm), world_size, native,
                                            rank, &config));
  }
  NcclResult comm_split(Comm parent, int color, int key, Comm* child) override {
    ncclConfig_t config = non_blocking();
    const int group = color < 0 ? NCCL_SPLIT_NOCOLOR : color;
    return result_of(
        ncclCommSplit(comm_of(parent), group, key, reinterpret_cast<ncclComm_t*>(child), &config));
  }
  NcclResult comm_finalize(Comm comm) override {
    return result_of(ncclCommFinalize(comm_of(comm)));
  }
  NcclResult comm_destroy(Comm comm) override { return result_of(ncclCommDestroy(comm_of(comm))); }
  NcclResult comm_abort(Comm comm) override { return result_of(ncclCommAbort(comm_of(comm))); }
  NcclResult async_error(Comm comm, NcclResult* state) override {
    ncclResult_t native = ncclSuccess;
    const ncclResult_t result = ncclCommGetAsyncError(comm_of(comm), &native);
    *state = result_of(native);
    return result_of(result);
  }
  std::string last_error(Comm comm) override {
    const char* text = ncclGetLastError(comm_of(comm));
    return text == nullptr ? "" : text;
  }

  NcclResult memory_allocate(void** data, std::size_t bytes) override {
    return result_of(ncclMemAlloc(data, bytes));
  }
  NcclResult memory_free(void* data) override { return result_of(ncclMemFree(data)); }
#if NCCL_VERSION_CODE >= NCCL_VERSION(2, 27, 0)
  static constexpr int kSymmetricWindow = NCCL_WIN_COLL_SYMMETRIC;
  NcclResult window_register(Comm comm, void* data, std::size_t bytes, bool is_symmetric,
                             NcclWindow* window) override {
    return result_of(ncclCommWindowRegister(comm_of(comm), data, bytes,
                                            reinterpret_cast<ncclWindow_t*>(window),
                                            is_symmetric ? kSymmetricWindow : NCCL_WIN_DEFAULT));
  }
  NcclResult window_deregister(Comm comm, NcclWindow window) override {
    return result_of(ncclCommWindowDeregister(comm_of(comm), static_cast<ncclWindow_t>(window)));
  }
  // NCCL 2.28 has no function for this question. Its symmetric windows are objects in memory of the
  // device, which kernels read; without symmetric memory, the handle is that of `ncclCommRegister`,
  // which is the host's. NCCL 2.29 has a function, and may give any handle.
  NcclResult window_is_symmetric(Comm comm, NcclWindow window, bool* is_symmetric) override {
    using GetUserPointer = ncclResult_t (*)(ncclComm_t, ncclWindow_t, void**);
    static const auto ask =
        reinterpret_cast<GetUserPointer>(::dlsym(RTLD_DEFAULT, "ncclWinGetUserPtr"));
    *is_symmetric = window != nullptr && is_device_memory(window);
    if (ask == nullptr || window == nullptr) return NcclResult::Success;
    void* data = nullptr;  // stays null without symmetric memory
    const ncclResult_t result = ask(comm_of(comm), static_cast<ncclWindow_t>(window), &data);
    *is_symmetric = result == ncclSuccess && data != nullptr;
    return result_of(result);
  }
#else
  NcclResult window_register(Comm comm, void* data, std::size_t bytes, bool /*is_symmetric*/,
                             NcclWindow* window) override {
    return result_of(ncclCommRegister(comm_of(comm), data, bytes, window));
  }
  NcclResult window_deregister(Comm comm, NcclWindow window) override {
    return result_of(ncclCommDeregister(comm_of(comm), window));
  }
  NcclResult window_is_symmetric(Comm /*comm*/, NcclWindow /*window*/,
                                 bool* is_symmetric) override {
    *is_symmetric = false;
    return NcclResult::Success;
  }
#endif

  NcclResult reduction_create(NcclReduction* op, const void* scalar, NcclType type,
                              Comm comm) override {
    ncclRedOp_t native = ncclSum;
    const ncclResult_t result = ncclRedOpCreatePreMulSum(
        &native, const_cast<void*>(scalar), type_of(type), ncclScalarHostImmediate, comm_of(comm));
    *op = static_cast<NcclReduction>(native);
    return result_of(result);
  }
  NcclResult reduction_destroy(NcclReduction op, Comm comm) override {
    return result_of(ncclRedOpDestroy(op_of(op), comm_of(comm)));
  }

  NcclResult group_start() override {
    return result_of(ncclGroupStart());
  }
  NcclResult group_end() override {
    return result_of(ncclGroupEnd());
  }
  NcclResult all_reduce(const void* send, void* receive, std::size_t count, NcclType type,
                        NcclReduction op, Comm comm, DeviceStream stream) override {
    return result_of(ncclAllReduce(send, receive, count, type_of(type), op_of(op), comm_of(comm),
                                   stream_of(stream)));
  }
  NcclResult reduce(const void* send, void* receive, std::size_t count, NcclType type,
                    NcclReduction op, int root, Comm comm, DeviceStream stream) override {
    return result_of(ncclReduce(send, receive, count, type_of(type), op_of(op), root, comm_of(comm),
                                stream_of(stream)));
  }
  NcclResult reduce_scatter(const void* send, void* receive, std::size_t receive_count,
                            NcclType type, NcclReduction op, Comm comm,
                            DeviceStream stream) override {
    return result_of(ncclReduceScatter(send, receive, receive_count, type_of(type), op_of(op),
                                       comm_of(comm), stream_of(stream)));
  }
  NcclResult broadcast(const void* send, void* receive, std::size_t count, NcclType type, int root,
                       Comm comm, DeviceStream stream) override {
    return result_of(
        ncclBroadcast(send, receive, count, type_of(type), root, comm_of(comm), stream_of(stream)));
  }
  NcclResult all_gather(const void* send, void* receive, std::size_t send_count, NcclType type,
                        Comm comm, DeviceStream stream) override {
    return result_of(
        ncclAllGather(send, receive, send_count, type_of(type), comm_of(comm), stream_of(stream)));
  }
  NcclResult send(const void* data, std::size_t count, NcclType type, int peer, Comm comm,
                  DeviceStream stream) override {
    return result_of(ncclSend(data, count, type_of(type), peer, comm_of(comm), stream_of(stream)));
  }
  NcclResult receive(void* data, std::size_t count, NcclType type, int peer, Comm comm,
                     DeviceStream stream) override {
    return result_of(ncclRecv(data, count, type_of(type), peer, comm_of(comm), stream_of(stream)));
  }
};

}  // namespace

std::shared_ptr<NcclApi> make_nccl_library() {
  return std::make_shared<NcclLibrary>();
}

}  // namespace lockstep::native
