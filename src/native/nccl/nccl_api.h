// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <array>
#include <cstddef>
#include <string>

namespace lockstep::native {

/// The numbers are NCCL's own (checked in nccl_library.cpp), so that nothing is translated and
/// nothing here needs its header.
enum class NcclResult : int {
  Success = 0,
  UnhandledCudaError = 1,
  SystemError = 2,
  InternalError = 3,
  InvalidArgument = 4,
  InvalidUsage = 5,
  RemoteError = 6,
  InProgress = 7
};
enum class NcclType : int {
  Int8 = 0,
  Uint8 = 1,
  Int32 = 2,
  Uint32 = 3,
  Int64 = 4,
  Uint64 = 5,
  Float16 = 6,
  Float32 = 7,
  Float64 = 8,
  Bfloat16 = 9,
  Float8e4m3 = 10,
  Float8e5m2 = 11
};
/// Reductions that a program makes have other numbers.
enum class NcclReduction : int { Sum = 0, Product = 1, Max = 2, Min = 3, Average = 4 };

using NcclUniqueId = std::array<std::byte, 128>;
using NcclCommunicatorHandle = void*;
using NcclWindow = void*;
using DeviceStream = void*;

/// The functions of NCCL that Lockstep calls, so that tests can put themselves in its place.
///
/// All communicators are non-blocking: a call may return `InProgress`, and what it started is
/// complete when `async_error` says `Success`. A thread of NCCL's writes the handles of parts and
/// windows only then, so that their place must live until then. `comm_init` writes its handle at
/// once and again then. The current device is the communicator's.
/// Thread-safety: one thread at a time a communicator.
class NcclApi {
 public:
  using Comm = NcclCommunicatorHandle;
  virtual ~NcclApi() = default;

  virtual NcclResult unique_id(NcclUniqueId& id) = 0;
  virtual NcclResult comm_init(Comm* comm, int world_size, const NcclUniqueId& id, int rank) = 0;
  /// A negative color joins none and gets null.
  virtual NcclResult comm_split(Comm parent, int color, int key, Comm* child) = 0;
  virtual NcclResult comm_finalize(Comm comm) = 0;
  virtual NcclResult comm_destroy(Comm comm) = 0;
  virtual NcclResult comm_abort(Comm comm) = 0;
  virtual NcclResult async_error(Comm comm, NcclResult* state) = 0;
  /// What NCCL says about the last error; may be empty.
  [[nodiscard]] virtual std::string last_error(Comm comm) = 0;

  virtual NcclResult memory_allocate(void** data, std::size_t bytes) = 0;
  virtual NcclResult memory_free(void* data) = 0;
  /// Collective. `is_symmetric`: each call uses the same place of the window on all ranks, which
  /// NCCL trusts; its faster kernels for sums need such windows.
  virtual NcclResult window_register(Comm comm, void* data, std::size_t bytes, bool is_symmetric,
                                     NcclWindow* window) = 0;
  virtual NcclResult window_deregister(Comm comm, NcclWindow window) = 0;
  /// Whether a window that was registered as symmetric is that: where the communicator has no such
  /// memory, NCCL registers an ordinary one without a word.
  virtual NcclResult window_is_symmetric(Comm comm, NcclWindow window, bool* is_symmetric) = 0;

  /// A sum of values times `scalar`, which is of type `type` and read at once.
  virtual NcclResult reduction_create(NcclReduction* op, const void* scalar, NcclType type,
                                      Comm comm) = 0;
  virtual NcclResult reduction_destroy(NcclReduction op, Comm comm) = 0;

  virtual NcclResult group_start() = 0;
  virtual NcclResult group_end() = 0;
  virtual NcclResult all_reduce(const void* send, void* receive, std::size_t count, NcclType type,
                                NcclReduction op, Comm comm, DeviceStream stream) = 0;
  virtual NcclResult reduce(const void* send, void* receive, std::size_t count, NcclType type,
                            NcclReduction op, int root, Comm comm, DeviceStream stream) = 0;
  virtual NcclResult reduce_scatter(const void* send, void* receive, std::size_t receive_count,
                                    NcclType type, NcclReduction op, Comm comm,
                                    DeviceStream stream) = 0;
  virtual NcclResult broadcast(const void* send, void* receive, std::size_t count, NcclType type,
                               int root, Comm comm, DeviceStream stream) = 0;
  virtual NcclResult all_gather(const void* send, void* receive, std::size_t send_count,
                                NcclType type, Comm comm, DeviceStream stream) = 0;
  virtual NcclResult send(const void* data, std::size_t count, NcclType type, int peer, Comm comm,
                          DeviceStream stream) = 0;
  virtual NcclResult receive(void* data, std::size_t count, NcclType type, int peer, Comm comm,
                             DeviceStream stream) = 0;
};

[[nodiscard]] const char* to_string(NcclResult result);

}  // namespace lockstep::native
