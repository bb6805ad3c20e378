// NCCL between processes of one machine: the calls that ckd-kernels makes, over Unix sockets. Calls go into a stream and are made
// in its order. One whose process is gone is never done, and ncclCommGetAsyncError tells it.
#include "streams.h"
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>
#include <fcntl.h>
#include <cerrno>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <deque>
#include <memory>
#include <string>
#include <vector>

#define API extern "C" __attribute__((visibility("default")))
enum { SUCCESS = 0, SYSTEM = 2, INVALID = 4, REMOTE = 6 };

struct Id { char text[128]; };
struct Comm { int rank, size; std::vector<int> sockets; int error = SUCCESS; Stream *last = nullptr; };
struct Move { bool sends; char *at; size_t bytes; int peer; Comm *comm; };

static thread_local int depth = 0;
static thread_local std::vector<Move> waiting;
static thread_local Stream *stream_of_group = nullptr;

static size_t size_of(int type) {
    switch (type) {
        case 0: case 1: return 1;
        case 6: case 9: return 2;
        case 2: case 3: case 7: return 4;
        case 4: case 5: case 8: return 8;
        default: return 0;
    }
}

// Moves of one communicator, those to and from a peer in their order.
struct Moves {
    Comm *comm;
    std::vector<std::deque<Move>> out, in;
    Moves(const std::vector<Move> &moves) : comm(moves[0].comm), out(comm->size), in(comm->size) {
        for (auto &move : moves) (move.sends ? out : in)[move.peer].push_back(move);
    }

    // Moves on what can be moved; whether all is done.
    bool go_on() {
        if (comm->error) return false;
        auto &to_self = out[comm->rank], &from_self = in[comm->rank];
        while (!to_self.empty() && !from_self.empty()) {
            std::memmove(from_self.front().at, to_self.front().at, to_self.front().bytes);
            to_self.pop_front(), from_self.pop_front();
        }
        bool done = true;
        for (int peer = 0; peer < comm->size; peer++) {
            if (peer == comm->rank) continue;
            for (auto *queue : {&out[peer], &in[peer]}) {
                while (!queue->empty() && step(queue->front(), comm->sockets[peer])) queue->pop_front();
                done &= queue->empty();
            }
        }
        return done && !comm->error;
    }

    // Moves bytes until no more can be moved now; whether these were the last.
    bool step(Move &move, int socket) {
        while (move.bytes) {
            ssize_t n = move.sends ? send(socket, move.at, move.bytes, MSG_NOSIGNAL) : recv(socket, move.at, move.bytes, 0);
            if (n < 0 && errno == EINTR) continue;
            if (n < 0 && errno == EAGAIN) return false;
            if (n <= 0) return comm->error = REMOTE, false;
            move.at += n, move.bytes -= n;
        }
        return true;
    }
};

static int end_group() {
    std::vector<Move> moves;
    moves.swap(waiting);
    if (moves.empty()) return SUCCESS;
    Comm *comm = moves[0].comm;
    size_t own[2] = {0, 0};
    for (auto &move : moves) {
        if (move.comm != comm || move.peer < 0 || move.peer >= comm->size) return INVALID;
        if (move.peer == comm->rank) own[move.sends] += move.bytes;
    }
    if (own[0] != own[1]) return INVALID;
    auto all = std::make_shared<Moves>(moves);
    comm->last = stream_of_group;
    put(stream_of_group, [all] { return all->go_on(); });
    return SUCCESS;
}

static int add(Move move, Stream *stream) {
    stream_of_group = stream;
    if (move.bytes) waiting.push_back(move);
    return depth > 0 ? int(SUCCESS) : end_group();
}

// An address in the abstract name space, which leaves no file.
static socklen_t address(sockaddr_un &at, const Id &id, int rank) {
    at = {};
    at.sun_family = AF_UNIX;
    int length = std::snprintf(at.sun_path + 1, sizeof at.sun_path - 1, "%.80s-%d", id.text, rank);
    return offsetof(sockaddr_un, sun_path) + 1 + length;
}

API int ncclGetVersion(int *version) { *version = 22800; return SUCCESS; }
API const char *ncclGetErrorString(int code) {
    return code == REMOTE ? "remote process exited or there was a network error" : code == INVALID ? "invalid argument" : "an error of the stand-in's NCCL";
}
API int ncclGetUniqueId(Id *id) {
    static int made = 0;
    std::memset(id, 0, sizeof *id);
    auto now = std::chrono::steady_clock::now().time_since_epoch().count();
    std::snprintf(id->text, sizeof id->text, "cpu_cuda_nccl-%d-%lld-%d", int(getpid()), (long long)now, made++);
    return SUCCESS;
}
API int ncclCommInitRank(Comm **comm, int size, Id id, int rank) {
    if (rank < 0 || rank >= size) return INVALID;
    Comm *made = new Comm{rank, size, std::vector<int>(size, -1)};
    sockaddr_un at;
    int door = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    socklen_t length = address(at, id, rank);
    if (door < 0 || bind(door, (sockaddr *)&at, length) != 0 || listen(door, size) != 0) return SYSTEM;
    for (int peer = 0; peer < rank; peer++) {
        int own = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
        length = address(at, id, peer);
        for (int tries = 0; connect(own, (sockaddr *)&at, length) != 0; tries++) {
            if (tries > 6000) return REMOTE;
            usleep(10000);
        }
        if (send(own, &rank, sizeof rank, MSG_NOSIGNAL) != sizeof rank) return REMOTE;
        made->sockets[peer] = own;
    }
    for (int peer = rank + 1; peer < size; peer++) {
        int other = -1, own = accept4(door, nullptr, nullptr, SOCK_CLOEXEC);
        if (own < 0 || recv(own, &other, sizeof other, MSG_WAITALL) != sizeof other || other <= rank || other >= size) return REMOTE;
        made->sockets[other] = own;
    }
    close(door);
    for (int own : made->sockets) if (own >= 0) fcntl(own, F_SETFL, O_NONBLOCK);
    *comm = made;
    return SUCCESS;
}
API int ncclCommDestroy(Comm *comm) {
    // Calls that are under way end first.
    while (!comm->error && !run(comm->last, SIZE_MAX, false)) usleep(100);
    for (int own : comm->sockets) if (own >= 0) close(own);
    if (!comm->error) delete comm;  // what could not be done still knows it
    return SUCCESS;
}
API int ncclCommGetAsyncError(Comm *comm, int *code) { *code = comm->error; return SUCCESS; }
API int ncclGroupStart() { depth++; return SUCCESS; }
API int ncclGroupEnd() { return --depth > 0 ? int(SUCCESS) : end_group(); }
API int ncclSend(const void *from, size_t count, int type, int peer, Comm *comm, Stream *stream) {
    return add({true, (char *)from, count * size_of(type), peer, comm}, stream);
}
API int ncclRecv(void *to, size_t count, int type, int peer, Comm *comm, Stream *stream) {
    return add({false, (char *)to, count * size_of(type), peer, comm}, stream);
}
API int ncclAllGather(const void *from, void *to, size_t count, int type, Comm *comm, Stream *stream) {
    size_t bytes = count * size_of(type);
    depth++;
    for (int peer = 0; peer < comm->size; peer++) {
        add({true, (char *)from, bytes, peer, comm}, stream);
        add({false, (char *)to + peer * bytes, bytes, peer, comm}, stream);
    }
    return ncclGroupEnd();
}
