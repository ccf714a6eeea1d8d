// Has llvmpipe compile kernels on large matrices in a minute instead of an hour. It loads and stores elements by masked gathers and
// scatters. Where the processor has no such instruction, LLVM splits a basic block for each of their lanes, and each split moves what
// follows in a block of a million instructions. So each kind of gather and scatter stands in a function of its own here, which is called.

#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef void *ref;
typedef ref (*build_call)(ref builder, ref type, ref function, ref *args, unsigned count, const char *name);

// The LLVM of the Mesa in the tree; llvmpipe has loaded it when it calls.
static const char LLVM_LIBRARY[] = "libLLVM.so.19.1";

static void *of_llvm(const char *name) {
    static void *library;
    if (!library) {
        library = dlopen(LLVM_LIBRARY, RTLD_LAZY | RTLD_NOLOAD);
    }
    void *found = library ? dlsym(library, name) : NULL;
    if (!found) {
        fprintf(stderr, "%s has no %s\n", LLVM_LIBRARY, name);
        exit(1);
    }
    return found;
}

#define CALL(result, name, types) ((result(*) types)of_llvm("LLVM" #name))

static ref function_with(ref type, ref intrinsic, const char *intrinsic_name, ref *args, unsigned count) {
    enum { VOID_TYPE = 0, INTERNAL_LINKAGE = 8, MOST_ARGS = 8 };
    char name[128];
    snprintf(name, sizeof name, "own %s", intrinsic_name);
    ref module = CALL(ref, GetGlobalParent, (ref))(intrinsic);
    ref function = CALL(ref, GetNamedFunction, (ref, const char *))(module, name);
    if (function || count > MOST_ARGS) {
        return function ? function : intrinsic;
    }
    function = CALL(ref, AddFunction, (ref, const char *, ref))(module, name, type);
    CALL(void, SetLinkage, (ref, int))(function, INTERNAL_LINKAGE);
    ref context = CALL(ref, GetModuleContext, (ref))(module);
    unsigned noinline_kind = CALL(unsigned, GetEnumAttributeKindForName, (const char *, size_t))("noinline", 8);
    ref attribute = CALL(ref, CreateEnumAttribute, (ref, unsigned, unsigned long long))(context, noinline_kind, 0);
    CALL(void, AddAttributeAtIndex, (ref, unsigned, ref))(function, -1u, attribute);
    ref block = CALL(ref, AppendBasicBlockInContext, (ref, ref, const char *))(context, function, "");
    ref builder = CALL(ref, CreateBuilderInContext, (ref))(context);
    CALL(void, PositionBuilderAtEnd, (ref, ref))(builder, block);
    ref own_args[MOST_ARGS];
    for (unsigned i = 0; i < count; i++) {
        // The alignment has to be a constant; it is that of the elements.
        ref constant = CALL(ref, IsAConstantInt, (ref))(args[i]);
        own_args[i] = constant ? constant : CALL(ref, GetParam, (ref, unsigned))(function, i);
    }
    ref result = ((build_call)of_llvm("LLVMBuildCall2"))(builder, type, intrinsic, own_args, count, "");
    if (CALL(int, GetTypeKind, (ref))(CALL(ref, TypeOf, (ref))(result)) == VOID_TYPE) {
        CALL(ref, BuildRetVoid, (ref))(builder);
    } else {
        CALL(ref, BuildRet, (ref, ref))(builder, result);
    }
    CALL(void, DisposeBuilder, (ref))(builder);
    return function;
}

// In the place of LLVM's own.
ref LLVMBuildCall2(ref builder, ref type, ref function, ref *args, unsigned count, const char *name) {
    size_t length;
    const char *callee = CALL(const char *, GetValueName2, (ref, size_t *))(function, &length);
    if (strncmp(callee, "llvm.masked.gather.", 19) == 0 || strncmp(callee, "llvm.masked.scatter.", 20) == 0) {
        function = function_with(type, function, callee, args, count);
    }
    return ((build_call)of_llvm("LLVMBuildCall2"))(builder, type, function, args, count, name);
}
